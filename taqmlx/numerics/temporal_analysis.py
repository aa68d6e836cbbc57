"""Change of a layer's input over a trajectory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taqmlx.numerics.phases import group_by_phase
from taqmlx.numerics.ranges import divide


def summarise_scale(absmax: Sequence[float]) -> dict[str, float]:
    """Mean, smallest and largest of the per-step absmax (S,)."""
    values = np.asarray(absmax, np.float64)
    return {"mean_scale": float(values.mean()), "min_scale": float(values.min()), "max_scale": float(values.max())}


def summarise_shift(shift: np.ndarray) -> dict[str, float]:
    """Largest and mean magnitude over the channels of a shift (D,)."""
    magnitude = np.abs(shift.astype(np.float64))
    return {"max_shift_magnitude": float(magnitude.max()), "mean_shift_magnitude": float(magnitude.mean())}


def compute_drift(absmax: Sequence[float]) -> float:
    """Ratio of the largest to the smallest per-step absmax; 1 for a tensor of zeros."""
    return float(divide(max(absmax), min(absmax)))


def find_phase_ranges(
    per_step: Mapping[str, Sequence[float]], sigmas: Sequence[float]
) -> dict[str, dict[str, Any] | None]:
    """Extremes and absmax within each phase; None for a phase that was not observed."""
    kinds = (("min", np.min), ("max", np.max), ("absmax", np.max))
    grouped = {kind: group_by_phase(per_step[kind], sigmas) for kind, _ in kinds}
    return {
        phase: {kind: float(reduce(grouped[kind][phase])) for kind, reduce in kinds} if values.size else None
        for phase, values in grouped["absmax"].items()
    }
