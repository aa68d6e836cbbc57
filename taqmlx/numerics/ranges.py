"""Ratios that measure how difficult a layer input is to quantize."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OUTLIER_RANGE = 2.5  # times the median range of the channels: beyond it, a channel is an outlier


def measure_inputs(
    inputs: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Ratios of each layer input, from the entries and arrays of the statistics of activations."""
    return {
        name: measure_input(described["per_step"], arrays[f"{name}/minimum"], arrays[f"{name}/maximum"])
        for name, described in inputs.items()
    }


def measure_input(
    per_step: Mapping[str, Sequence[float]], minimum: np.ndarray, maximum: np.ndarray
) -> dict[str, float]:
    """Ratios of one input, from its per-step scalars and the extremes of its channels (S, D).

    absmax_low, absmax_high: smallest and largest per-step absmax;
    drift: absmax_high / absmax_low, the range wasted by a step size that ignores time;
    crest: largest absmax / std over steps, 4 to 5 for a Gaussian;
    channel_spread: range of the widest channel / median range, over all steps;
    min, max: over all steps; asymmetry: |max + min| / (max - min), 0 if centred and 1 if one-sided;
    negative_share: mean over steps;
    shift_gain, for post-GELU inputs only: mean over steps of absmax / absmax after the shift.
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
    """a / b; 1 if b is zero, as for a tensor of zeros, which is not difficult to quantize."""
    return a / b if b else 1.0


def measure_outliers(
    per_step: Mapping[str, Sequence[float]], minimum: np.ndarray, maximum: np.ndarray, mean: np.ndarray
) -> dict[str, float]:
    """Outliers of one input, from its per-step scalars and the extremes and means of its channels (S, D).

    absmax: over all steps; drift: ratio of the largest to the smallest per-step absmax; spread: ratio
    of the largest channel absmax to the median one; offset: largest channel mean over absmax, near 1 for a channel that
    is always on and near 0 for one of rare spikes.
    """
    absmax = np.asarray(per_step["absmax"], np.float64)
    channels = np.maximum(np.abs(minimum), np.abs(maximum)).max(axis=0).astype(np.float64)  # (S, D) -> (D,)
    measured = {
        "absmax": absmax.max(),
        "drift": divide(absmax.max(), absmax.min()),
        "spread": divide(channels.max(), float(np.median(channels))),
        "offset": np.abs(mean.mean(axis=0)).max() / absmax.max() if absmax.max() else 0.0,
    }
    return {key: float(value) for key, value in measured.items()}
