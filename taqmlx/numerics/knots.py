"""Looking up what was calibrated at some noise levels at any other.

By sigma and not by step index: step 20 of 28 is not step 20 of 50. A lookup weighs the knots (K,), in any order: what
holds at `sigma` is the values (K,) at the knots times the weights, which sum to 1. Beyond the ends the end holds.
"""

import numpy as np


def find_nearest_knot(sigma: float, knots: np.ndarray) -> int:
    """The index of the knot (K,) nearest to `sigma`; beyond the ends, the end. Of two as near, the first."""
    return int(np.argmin(np.abs(np.asarray(knots, np.float64) - sigma)))


def weigh_nearest(sigma: float, knots: np.ndarray) -> np.ndarray:
    """All on the nearest knot: float64 (K,)."""
    weights = np.zeros(len(knots))
    weights[find_nearest_knot(sigma, knots)] = 1.0
    return weights


def weigh_interpolated(sigma: float, knots: np.ndarray) -> np.ndarray:
    """Between the two knots around `sigma`, linear in sigma: float64 (K,)."""
    order = np.argsort(knots)
    ascending = np.asarray(knots, np.float64)[order]
    place = np.interp(sigma, ascending, np.arange(len(knots), dtype=float))
    weights = np.zeros(len(knots))
    weights[order] = np.maximum(1.0 - np.abs(place - np.arange(len(knots))), 0.0)
    return weights


LOOKUPS = {"nearest": weigh_nearest, "interpolated": weigh_interpolated}
DEFAULT_LOOKUP = "nearest"
