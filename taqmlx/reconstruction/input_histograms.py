"""Histograms of post-GELU values at one noise level, before and after TaQ-DiT's shift and migration."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from taqmlx.planning.documents import HistogramGrid
from taqmlx.planning.layer_rules import InputRule
from taqmlx.planning.layers import reads_gelu
from taqmlx.reconstruction.block_problem import BlockProblem
from taqmlx.reconstruction.input_quantizers import Extremes, calibrate_step_sizes, choose_quantizer
from taqmlx.reconstruction.input_sensitivity import observe_values
from taqmlx.reconstruction.migration import divide, start_ratios

BINS = 256
BITS = 8
_RULE: InputRule = {"bits": BITS, "policy": "lut", "range": "absmax", "shift": True}
# Names of the edge arrays, by treatment of the values.
TREATMENTS = {"before": "edges", "shifted": "shifted_edges", "migrated": "migrated_edges"}


def measure_distributions(
    problem: BlockProblem, observed: Mapping[str, Extremes], seed: int
) -> tuple[dict[str, HistogramGrid], dict[str, np.ndarray]]:
    """Grids at the middle noise level and histograms of each post-GELU input, by layer.

    The step sizes are those after the shift, and after shift and migration. The migration uses the initial ratios, each
    outlier channel's absmax over the largest non-outlier absmax. Arrays are counts int64 (BINS,) and edges float32
    (BINS + 1,), named `<layer>/<name>`.
    """
    sigma_index = len(problem.sigmas) // 2
    where = np.flatnonzero(problem.rows.sigma_index == sigma_index)
    described, treated, arrays = {}, {}, {}
    for key, extremes in observed.items():
        if reads_gelu(key):
            described[key], treated[key] = describe_grids(problem, key, extremes, sigma_index, seed)
            low, high = extremes.minimum[where].min(axis=0), extremes.maximum[where].max(axis=0)
            for name, (shift, ratio) in treated[key].items():
                ends = ((low - shift) / ratio).min(), ((high - shift) / ratio).max()
                arrays[f"{key}/{TREATMENTS[name]}"] = np.linspace(*ends, BINS + 1, dtype=np.float32)
                arrays[f"{key}/{name}"] = np.zeros(BINS, np.int64)

    def count(key: str, x: mx.array, sigma_index: mx.array) -> None:
        for name, (shift, ratio) in treated.get(key, {}).items():
            low, high = arrays[f"{key}/{TREATMENTS[name]}"][[0, -1]]
            # The edges come from another run with another batch size and can differ in the last place.
            values = np.clip((np.array(x) - shift) / ratio, low, high)
            arrays[f"{key}/{name}"] += np.histogram(values, BINS, (low, high))[0]

    observe_values(problem, where, count)
    return described, arrays


def describe_grids(
    problem: BlockProblem, key: str, extremes: Extremes, sigma_index: int, seed: int
) -> tuple[HistogramGrid, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Grids of one input at a noise level, and shift and divisor (D,) of each treatment."""
    quantizer = choose_quantizer(key, extremes, _RULE, problem.rows.sigma_index, problem.sigmas, seed)
    ratio, shift = start_ratios(extremes, quantizer), np.array(quantizer.shift)
    steps = calibrate_step_sizes(*divide(extremes, quantizer, ratio), _RULE, problem.rows.sigma_index, problem.sigmas)
    described: HistogramGrid = {
        "knot": sigma_index,
        "sigma": float(problem.sigmas[sigma_index]),
        "step": float(quantizer.step_sizes[sigma_index]),
        "bits": BITS,
        "migrated_step": float(steps[sigma_index]),
        "has_migration": bool((ratio > 1).any()),
    }
    zero, one = np.zeros_like(shift), np.ones_like(shift)
    return described, {"before": (zero, one), "shifted": (shift, one), "migrated": (shift, ratio)}
