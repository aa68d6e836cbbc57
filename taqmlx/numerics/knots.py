"""Lookup of values calibrated at some noise levels (knots) at any other noise level sigma.

The key is sigma and not the step index, because step 20 of 28 is not step 20 of 50. A lookup returns weights of the
knots (K,), in any order: the value at `sigma` is the sum of values (K,) times weights, which sum to 1. Beyond the ends
the value at the end applies.
"""

import numpy as np


def find_nearest_knot(sigma: float, knots: np.ndarray) -> int:
    """Index of the knot (K,) nearest to `sigma`; beyond the ends, that of the end. The first one on a tie."""
    return int(np.argmin(np.abs(np.asarray(knots, np.float64) - sigma)))


def weigh_nearest(sigma: float, knots: np.ndarray) -> np.ndarray:
    """Weights of a nearest-knot lookup, float64 (K,)."""
    weights = np.zeros(len(knots))
    weights[find_nearest_knot(sigma, knots)] = 1.0
    return weights


def weigh_interpolated(sigma: float, knots: np.ndarray) -> np.ndarray:
    """Weights of linear interpolation in sigma between the two adjacent knots, float64 (K,)."""
    order = np.argsort(knots)
    ascending = np.asarray(knots, np.float64)[order]
    place = np.interp(sigma, ascending, np.arange(len(knots), dtype=float))
    weights = np.zeros(len(knots))
    weights[order] = np.maximum(1.0 - np.abs(place - np.arange(len(knots))), 0.0)
    return weights


LOOKUPS = {"nearest": weigh_nearest, "interpolated": weigh_interpolated}
DEFAULT_LOOKUP = "nearest"
