"""What makes an input hard to quantize, as a few ratios."""

from collections.abc import Mapping, Sequence

import numpy as np


def measure_input(
    per_step: Mapping[str, Sequence[float]], minimum: np.ndarray, maximum: np.ndarray
) -> dict[str, float]:
    """The ratios of one input, from its scalars by step and its channels' extremes (S, D).

    absmax_low, absmax_high: the smallest and largest over steps of the largest magnitude;
    drift: their ratio, what a step size that ignores time wastes;
    crest: the largest over steps of absmax / std, 4 to 5 for a Gaussian;
    channel_spread: the range of the widest channel / that of the median one, over all steps;
    min, max: over all steps; asymmetry: |max + min| / (max - min), 0 when centred and 1 when one-sided;
    negative_share: the mean over steps;
    of post-GELU inputs also shift_gain: the mean over steps of absmax / absmax after the shift.
    """
    absmax = np.asarray(per_step["absmax"], np.float64)
    ranges = maximum.max(axis=0).astype(np.float64) - minimum.min(axis=0)  # (S, D) -> (D,)
    low, high = float(minimum.min()), float(maximum.max())
    measured = {
        "absmax_low": absmax.min(),
        "absmax_high": absmax.max(),
        "drift": divide(absmax.max(), absmax.min()),
        "crest": max(map(divide, absmax, per_step["std"])),
        "channel_spread": divide(ranges.max(), float(np.median(ranges))),
        "min": low,
        "max": high,
        "asymmetry": divide(abs(high + low), high - low),
        "negative_share": float(np.mean(per_step["negative_share"])),
    }
    if "shifted_absmax" in per_step:
        measured["shift_gain"] = np.mean([*map(divide, absmax, per_step["shifted_absmax"])])
    return {key: float(value) for key, value in measured.items()}


def divide(a: float, b: float) -> float:
    """a / b; 1 for a tensor of zeros, which nothing makes hard."""
    return a / b if b else 1.0
