"""A small complete results folder for the report: a real quantization config and synthetic measurements."""

import json
from argparse import Namespace
from pathlib import Path

from PIL import Image, PngImagePlugin

from taqmlx.planning import configuration
from taqmlx.planning.layers import list_linears
from taqmlx.planning.plan import MODEL_BLOCKS, WHOLE, list_block_names
from taqmlx.store import block_report
from taqmlx.store.files import read_json, write_json
from taqmlx.store.sensitivity_file import FORMAT
from tests.plots.synthetic import build_frontier
from workflow_scripts.report import write_report

LEVELS = [1.0, 0.6, 0.1]
SUMMARY = {
    "total_layers": 2,
    "total_decisions": 6,
    "mean_bits": 5.5,
    "switching_layers": ["mm_00.image.mlp.fc1"],
    **{key: value for a in (4, 6, 8) for key, value in ((f"total_a{a}", 2), (f"a{a}_percentage", 33.3))},
    **{f"always_a{a}": [] for a in (4, 6, 8)},
}
PLOTS = [
    "frontier",
    *("absmax_step_000", "absmax_step_099", "most_variable_layers", "largest_layers", "image_fc1", "text_mlp"),
    *("fc2_shift", "heatmap_absmax", "heatmap_variability", "heatmap_negative_share", "channel_ranges"),
    *("distributions", "adaround_convergence", "block_errors", "layer_errors", "error_growth", "size_quality"),
    "picture_grid",
]
BENCHMARK = (
    "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n{}\t0:00:01\t{}" + "\t0" * 7
)


BENCHMARKS = (
    *(("score", 2.5, "100.00"), ("sample/a/00", 0.5, "-"), ("sample/b/00", 60, "50.0")),
    ("distil", 90, "100.0"),
)


class Results:
    """The report's inputs in `folder`, around the `quant_config` and `statistics` of a finished study."""

    def __init__(self, folder: Path, quant_config: Path, statistics: Path, plots: list[str] = PLOTS):
        self.folder, self.quant_config, self.statistics = folder, quant_config, statistics
        self.plots = [folder / "plots" / f"{name}.png" for name in plots]
        self.config = configuration.complete({}, configuration.load_schema())

    def write(self) -> None:
        """Make up every measurement."""
        content = read_json(self.quant_config)
        layers = [layer for layer in list_linears(*MODEL_BLOCKS["embedded"]) if layer.name in content["layers"]]
        write_json(self.folder / "fid.json", {"format": "evaluation"} | make_evaluation())
        for block in list_block_names("embedded"):
            own = [layer for layer in layers if layer.block == block]
            write_json(self.folder / "sensitivity" / f"{block}.json", FORMAT | make_sensitivity(block, own))
            block_report.write_report(
                self.folder / "adaround" / f"{block}.report.json", block, make_block_report(block, own)
            )
        write_json(self.folder / "quant_config_multitier.json", make_multitier(content))
        write_json(self.folder / "mixed_bits.json", make_mixed(content["layers"]))
        write_json(self.folder / "frontier.json", build_frontier())
        block_report.write_report(self.folder / "distilled.report.json", WHOLE, make_distillation(layers))
        for index, path in enumerate(self.plots):
            path.parent.mkdir(exist_ok=True)
            draw_plot(path, 400 + 10 * index, 300)
        for name, seconds, memory in BENCHMARKS:
            path = self.folder / "benchmarks" / f"{name}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(BENCHMARK.format(seconds, memory) + "\n")

    def change(self, name: str, change) -> None:
        """Let `change` alter what a JSON file in the folder holds."""
        content = read_json(self.folder / name)
        change(content)
        write_json(self.folder / name, content)

    def render(self, **changes) -> str:
        """The report's text, as the entry writes it."""
        named = {
            "config": json.dumps(self.config),
            "fid": self.folder / "fid.json",
            "frontier": self.folder / "frontier.json",
            "distilled": self.folder / "distilled.report.json",
            "folds": None,
            "quant_config": self.quant_config,
            "multitier": self.folder / "quant_config_multitier.json",
            "mixed": self.folder / "mixed_bits.json",
            "statistics": self.statistics,
            "reports": sorted((self.folder / "adaround").glob("*.report.json")),
            "sensitivity": sorted((self.folder / "sensitivity").glob("*.json")),
            "plots": self.plots,
            "benchmarks": self.folder / "benchmarks",
            "out": self.folder / "report.html",
        }
        write_report.main(Namespace(**(named | changes)))
        return (self.folder / "report.html").read_text(encoding="utf-8")


def give(value: float, low: float, high: float, key: str = "value") -> dict:
    return {key: value, "interval_95": [low, high], "n": 8}


def make_variant(title: str, distance: float, snr: float, bits: float, widths: list[int]) -> dict:
    """A variant so far from full precision; the distance's interval is from half to twice its value."""
    ratio = give(snr, snr - 1, snr + 1, "median") | {"worst": snr - 10, "equal": 0}
    growth = {"median": [50.0, snr], "interval_95": [[49.0, 51.0], [snr - 1, snr + 1]]}
    return {
        "title": title,
        "fid_to_full_precision": give(distance, distance / 2, distance * 2),
        "fid_to_real": give(2.1, 1.7, 2.6),
        "kid_to_full_precision": give(1e-5, -6e-5, 7e-5),
        "kid_to_real": give(0.006, -0.002, 0.017),
        "paired": {"latent_snr_db": ratio, "psnr_db": ratio, "ssim": give(0.99, 0.98, 0.995, "median")}
        | {"turns_out_otherwise": give(0.0075, 0.0, 0.015)},
        "prompt_accuracy": {"all": give(0.99, 0.98, 1.0)},
        "error_growth": {
            "sigmas": [1.0, 0.5, 0.0],
            "latent_snr_db": {"free_running": growth, "teacher_forced": growth},
        },
        "size": {"bytes": int(1000 * bits / 8), "bits_per_weight": bits, "weights": 1000, "activation_bits": widths},
    }


def make_evaluation() -> dict:
    """Full precision, W4A8, and the noise floor: reruns, of which nothing differs, and other seeds."""
    exact = make_variant("full precision", 8e-14, 0.0, 32, [16])
    exact = {key: value for key, value in exact.items() if key != "paired"} | {"error_growth": None}
    equal = {"median": None, "interval_95": [None, None], "worst": None, "equal": 8, "n": 8}
    rerun = {key: value for key, value in exact.items() if key not in ("error_growth", "size")}
    return {
        "format": "evaluation",
        "version": 2,
        "bits_saved": make_saving(),
        "n": 8,
        "prompts": 8,
        "steps": 2,
        "cfg": 3.0,
        "is_headline": False,
        "headline": "FID of fewer than 10,000 pictures is no headline",
        "features": {"network": "a classifier", "dimensions": 128, "resize": "none", "weights_sha256": "f" * 64},
        "reference": {"real": {"n": 32, "drawn": True, "resized": 0}, "full_precision": {"n": 8}},
        "notes": {"intervals": "95 %", "simulated": "8-bit activations are simulated"},
        "variants": {"fp": exact, "w4a8": make_variant("W4A8, packed", 0.047, 20.3, 5.87, [8, 16])},
        "noise_floor": {
            "fp_other_seeds": make_variant("full precision, other seeds", 0.841, 1.55, 32, [16]),
            "fp_rerun": rerun
            | {"title": "full precision again", "paired": {"latent_snr_db": equal, "psnr_db": equal, "ssim": equal}},
        },
    }


def make_saving() -> dict:
    """What is saved at the default size, more by unrounded inputs."""
    ways = {
        name: {"title": name, "bits_per_weight": 4.49, "median": give(value, 2.06, 2.44), "p5": give(1.5, 1.25, 1.75)}
        for name, value in (("w_a16", 2.5), ("w_a8", 2.25))
    }
    return {"asked": 4.5, "n": 256, "steps": 28, "cfg": 3.0, "ways": ways}


def make_distillation(layers: list) -> dict:
    """A distillation that halved the error and moved one code of a hundred, in the last layer two."""
    moved = {layer.name: 0.01 * (1 + (layer is layers[-1])) for layer in layers}
    return {
        "chosen": "distilled",
        "points": {"training": 900, "held_out": 100},
        "errors": {"blocks": 0.01, "distilled": 0.005},
        "moved_codes": moved,
        "loss": {"every": 2, "values": [0.02, 0.0125]},
    }


def make_sensitivity(block: str, layers: list) -> dict:
    """Errors that grow with fewer bits; each layer has its own, and the first block's least one is none at all."""
    number = int(block[-2:])

    def err(place: int, bits: int) -> dict:
        error = (1 + place + number) * 4.0**-bits * (bits < 8 or number > 0)
        return {"bits_per_weight": bits + 0.5, "image": error, "text": error / 2, "velocity": error / 4}

    named = [layer for layer in layers if layer.role in ("qkv", "o", "fc1", "fc2", "adaLN")]
    read: dict[str, list[str]] = {}
    for layer in named:
        if layer.role != "adaLN":
            read.setdefault(layer.input, []).append(layer.name)
    return {
        "format": "sensitivity",
        "version": 1,
        "model": "embedded",
        "block": block,
        "sigmas": LEVELS,
        "gains": {"image": 0.5 + number, "text": 0.25},
        "weights": {
            layer.name: {"elements": 64, "config_bits": 4, "errors": {str(b): err(i, b) for b in (2, 3, 4, 5, 6, 8)}}
            for i, layer in enumerate(named)
        },
        "inputs": {
            name: {
                "layers": users,
                "post_gelu": name.endswith("fc2"),
                "tiers": {
                    str(b): {"clip": 0.9, "inside": 0.99, "errors": [(i + level) * 4.0**-b for level in LEVELS]}
                    for b in (4, 6, 8)
                },
            }
            for i, (name, users) in enumerate(read.items())
        },
    }


def make_block_report(block: str, layers: list) -> dict:
    """Three engines, each better than the one before."""
    errors = {
        engine: {inputs: {"image": 10.0**-power, "text": 2 * 10.0**-power} for inputs in ENGINE_INPUTS}
        for power, engine in enumerate(("rtn", "gptq", "adaround"), start=2)
    }
    moved = {
        layer.name: {"moved_from_nearest": 0.17, "migrated_channels": 0} for layer in layers if layer.role != "adaLN"
    }
    return {
        "block": block,
        "chosen": "adaround",
        "errors": errors,
        "layers": moved,
        "loss": {"every": 5, "values": [1]},
    }


ENGINE_INPUTS = ("full_precision_inputs", "quantized_inputs")


def make_multitier(content: dict) -> dict:
    """The config with an analysis, in which the last phase has no noise level."""
    layers = {
        name: {"phases": {"early": 8, "mid": 4 + 2 * (i % 3), "late": None}, "weight_bits": 4 + 2 * (i % 2)}
        for i, name in enumerate(content["layers"])
    }
    analysis = {
        "rule": "measured",
        "budget_db": 40.0,
        "phases": {"early": [0.7, 1.0], "mid": [0.3, 0.7], "late": [0.0, 0.3]},
        "layers": layers,
        "summary": SUMMARY,
    }
    return content | {"analysis": analysis}


def make_mixed(layers: dict) -> dict:
    """Mixed bits that beat uniform ones."""
    uniform = {name: {"bits": 3, "group_size": 64} for name in layers}
    mixed = {name: {"bits": 2 + i % 5, "group_size": 128} for i, name in enumerate(layers)}
    return {
        "format": "mixed-bits",
        "version": 2,
        "budget": 3.5,
        "uniform": {"bits_per_weight": 3.5, "predicted": 0.02, "layers": uniform},
        "mixed": {"bits_per_weight": 3.49, "predicted": 0.01, "layers": mixed},
        "rules": [],
        "ranks": {},
    }


def draw_plot(path: Path, width: int, height: int) -> None:
    """A grey picture that says, as plots do, which it is."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Title", path.stem)
    Image.new("L", (width, height), 128).save(path, pnginfo=chunks)
