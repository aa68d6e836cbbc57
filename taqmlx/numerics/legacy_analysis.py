"""Tensor statistics in the layout of the earliest programs, and the bit widths those programs would recommend."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PERCENTILES = {f"p{percent:02d}": f"p{percent}" for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
WIDE, MEDIUM = 10.0, 5.0  # ranges from the 1 % to the 99 % quantile, in units of the activation
SPREAD = 0.5
TAILS = 0.9
DEFAULTS = {"weight_bits": 4, "activation_bits": 8, "use_symmetric": False}
PHASE_BITS = {"early": 4, "mid": 6, "late": 8}


def join_steps(
    per_step: Mapping[str, Sequence[float]], rows: Sequence[int], channels: int, overall: Mapping[str, float]
) -> dict[str, Any]:
    """Statistics of a tensor over all timesteps, from per-step scalars, rows per step and `overall` quantiles.

    A row has `channels` values. The standard deviation combines the deviations within steps and of the step means
    (Chan et al. 1979); num_samples counts values.
    """
    share = np.asarray(rows, np.float64) / sum(rows)
    means, deviations = (np.asarray(per_step[key], np.float64) for key in ("mean", "std"))
    mean = float(share @ means)
    return {
        "min": float(min(per_step["min"])),
        "max": float(max(per_step["max"])),
        "mean": mean,
        "std": float(np.sqrt(share @ (np.square(deviations) + np.square(means - mean)))),
        "percentiles": {name: overall[key] for name, key in PERCENTILES.items()},
        "num_samples": int(sum(rows)) * channels,
    }


def advise_bits(flat: Mapping[str, Any]) -> int:
    """Recommended bits: 8 for a range from p01 to p99 above 10, 6 above 5, otherwise 4.

    2 more, up to 8, if the standard deviation exceeds half of that range.
    """
    range_width = measure_range(flat)
    bits = 8 if range_width > WIDE else 6 if range_width > MEDIUM else 4
    return min(bits + 2, 8) if flat["std"] > SPREAD * range_width else bits


def measure_range(flat: Mapping[str, Any]) -> float:
    """Range from the 1 % to the 99 % quantile."""
    range_width: float = flat["percentiles"]["p99"] - flat["percentiles"]["p01"]
    return range_width


def advise_layer(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Recommendation for one layer: the same bits for its weight and its input, and the clipping percentiles.

    scale and zero_point describe an unsigned grid from p01 to p99: code = x / scale + zero_point. Both are 0 for a
    tensor without a range.
    """
    bits, low, range_width = advise_bits(flat), flat["percentiles"]["p01"], measure_range(flat)
    has_tails = range_width < TAILS * (flat["max"] - flat["min"])
    return {
        "weight_bits": bits,
        "activation_bits": bits,
        "clip_percentile": [1, 99] if has_tails else [0, 100],
        "scale": range_width / (2**bits - 1),
        "zero_point": -low * (2**bits - 1) / range_width if range_width else 0.0,
        "calibration_stats": {key: flat[key] for key in ("min", "max", "mean", "std")}
        | {key: flat["percentiles"][key] for key in ("p01", "p99")},
    }
