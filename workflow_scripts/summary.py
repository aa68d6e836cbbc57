"""What a run left behind, in a few lines. Standard library only."""

from pathlib import Path

from workflow_scripts.plain_files import read_plain_json

# what, where it is, relative to the results
_DELIVERABLES = (
    ("quantization config", "quant_config.json"),
    ("packed weights", "quantized/model.safetensors"),
    ("quantized blocks", "adaround"),
    ("report", "report.html"),
    ("evaluation", "fid.json"),
    ("quality against size", "frontier.md"),
    ("ablation", "ablation.md"),
    ("fewer activation bits", "quant_config_multitier.json"),
    ("mixed weight bits", "mixed_bits.json"),
    ("ladder of weights", "weights_ladder.md"),
    ("activation statistics", "activations/statistics.json"),
    ("layer ranges", "activations/ranges.md"),
    ("calibration set", "calibration.zarr"),
    ("flat calibration file", "DiT_cali_data.npz"),
    ("trajectories", "trajectories.zarr"),
    ("exported dataset", "exports"),
)


def measure(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def format_bytes(count: int) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def describe_results(results: Path) -> list[str]:
    """One line per deliverable that exists in `results`, and what is real and what simulated."""
    lines = [
        f"  {what:<22} {format_bytes(measure(results / place)):>9}  {results / place}"
        for what, place in _DELIVERABLES
        if (results / place).exists()
    ]
    config = results / "quant_config.json"
    if config.exists():
        lines.append(f"  weights are packed ({describe_widths(config)}); 8-bit activations are simulated")
    return ["Made so far:", *lines] if lines else []


def describe_widths(config: Path) -> str:
    """The widths below 16 bits of a quantization config's weights, in words."""
    try:
        layers = read_plain_json(config)["layers"].values()
        widths = sorted({layer["weight"]["bits"] for layer in layers if layer["weight"]["bits"] < 16})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{config} is damaged"
    return f"{', '.join(map(str, widths))} bits"
