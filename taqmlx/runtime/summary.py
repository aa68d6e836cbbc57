"""Summary of a run's results in a few lines. Standard library only."""

from collections.abc import Iterable
from pathlib import Path

from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.planning.plain_files import read_plain_json

# (description, path relative to the results)
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
    ("weights ladder", "weights_ladder.md"),
    ("activation statistics", "activations/statistics.json"),
    ("layer ranges", "activations/ranges.md"),
    ("calibration set", "calibration.zarr"),
    ("flat calibration file", "DiT_cali_data.npz"),
    ("trajectories", "trajectories.zarr"),
    ("exported dataset", "exports"),
)


def measure(path: Path) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def format_bytes(count: float) -> str:
    """A number of bytes with a suitable unit."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def describe_results(results: Path) -> list[str]:
    """One line per deliverable in `results`, plus the quantization of weights and activations."""
    lines = [
        f"  {what:<22} {format_bytes(measure(results / place)):>9}  {results / place}"
        for what, place in _DELIVERABLES
        if (results / place).exists()
    ]
    config = results / "quant_config.json"
    if config.exists():
        lines.append(f"  {describe_widths(config)}")
    return ["Results so far:", *lines] if lines else []


def describe_widths(config: Path) -> str:
    """Bit widths of weights and activations in a quantization config, in words."""
    try:
        layers = read_plain_json(config)["layers"].values()
        weights = find_widths(layer["weight"]["bits"] for layer in layers)
        inputs = find_widths(layer["activation"]["bits"] for layer in layers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{config} is damaged"
    packed = f"weights are packed ({show_widths(weights)})" if weights else "weights are not quantized"
    return packed + (
        f"; {show_widths(inputs)} activations are simulated" if inputs else "; activations are not quantized"
    )


def find_widths(found: Iterable[int | list[int]]) -> list[int]:
    """Sorted widths below 16 bits; a layer may have a list of them, one per noise level."""
    every = {bits for widths in found for bits in (widths if isinstance(widths, list) else [widths])}
    return sorted(bits for bits in every if bits < UNQUANTIZED)


def show_widths(widths: list[int]) -> str:
    """Widths as `4-bit` or `4- and 8-bit`."""
    *others, last = map(str, widths)
    return f"{', '.join(f'{bits}-' for bits in others)} and {last}-bit" if others else f"{last}-bit"
