"""Export the activation statistics in the layouts of earlier programs: over time, flat, and as suggested bits.

For users with readers of these layouts. Every linear layer has an entry, so shared inputs are repeated. This workflow
does not read the exported files.
"""

import argparse
from typing import Any

import numpy as np

from taqmlx.numerics import legacy_analysis, temporal_analysis
from taqmlx.numerics.phases import PHASES
from taqmlx.planning.documents import InputStatistics, Statistics
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.checksum_files import checksummed
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_plain_json
from taqmlx.store.statistics_file import read_statistics, read_statistics_arrays

TEMPORAL_FORMAT = "layer_temporal_analysis_v4"
SCALE_IS = "the absmax of the layer input at a step, before any shift; not a step size"
SHIFT_IS = "one for all steps, by channel; its magnitude over channels"
NOTICE = (
    "Exported for programs that read this layout; nothing here runs it: quant_config.json is what runs. The advice goes"
    " by ranges only, not by what rounding costs. Codes are x / scale + zero_point, 0 to 2^activation_bits - 1; what"
    " lies outside p01 to p99 is clipped."
)


def main(arguments: argparse.Namespace) -> None:
    statistics = read_statistics(arguments.statistics)
    arrays = read_statistics_arrays(arguments.statistics, statistics)
    inputs = {layer: name for name, described in statistics["inputs"].items() for layer in described["layers"]}
    flat = {layer: flatten(name, statistics["inputs"][name], arguments) for layer, name in inputs.items()}
    contents = {
        arguments.temporal: describe_time(statistics, arrays, inputs),
        arguments.flat: flat,
        arguments.advice: describe_advice(flat),
    }
    for path, content in contents.items():
        with checksummed(path):
            write_plain_json(path, content)
    log.info(f"{len(inputs)} layers in {', '.join(path.name for path in contents)} in {arguments.flat.parent}")


def flatten(name: str, described: InputStatistics, arguments: argparse.Namespace) -> dict[str, Any]:
    """Statistics of one input over all its steps. Raises UserError if the quantiles over all steps are missing."""
    if "overall" not in described:
        raise UserError(f"{arguments.statistics} has no quantiles of all steps for {name}; run merge_activations again")
    return legacy_analysis.join_steps(
        described["per_step"], described["rows"], described["channels"], described["overall"]
    )


def describe_time(statistics: Statistics, arrays: dict[str, np.ndarray], inputs: dict[str, str]) -> dict[str, Any]:
    """Change of every layer's input over time; `inputs`: input name by layer."""
    sigmas = statistics["sigmas"]
    per_step = {layer: statistics["inputs"][name]["per_step"] for layer, name in inputs.items()}
    shifts = {layer: arrays[f"{name}/shift"] for layer, name in inputs.items() if f"{name}/shift" in arrays}
    return {
        "format": TEMPORAL_FORMAT,
        "model": statistics["model"],
        "scale_is": SCALE_IS,
        "shift_is": SHIFT_IS,
        "sigma_map": {str(step): sigma for step, sigma in zip(statistics["steps"], sigmas, strict=True)},
        "phases": {name: list(ends) for name, ends in PHASES.items()},
        "layer_scale_summary": {
            layer: temporal_analysis.summarise_scale(values["absmax"]) for layer, values in per_step.items()
        },
        "shift_summary": {layer: temporal_analysis.summarise_shift(shift) for layer, shift in shifts.items()},
        "drift": {layer: temporal_analysis.compute_drift(values["absmax"]) for layer, values in per_step.items()},
        "phase_ranges": {
            layer: temporal_analysis.find_phase_ranges(values, sigmas) for layer, values in per_step.items()
        },
    }


def describe_advice(flat: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Bits that the earliest programs would have suggested, from the flat statistics."""
    return {
        "legacy": True,
        "notice": NOTICE,
        "default_config": legacy_analysis.DEFAULTS,
        "phase_bits": legacy_analysis.PHASE_BITS,
        "layer_configs": {layer: legacy_analysis.advise_layer(described) for layer, described in flat.items()},
    }


if __name__ == "__main__":
    run(main, build_parser(__doc__, "statistics", "temporal", "flat", "advice"))
