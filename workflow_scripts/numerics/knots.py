"""Looking up what was calibrated at some noise levels at any other."""

import numpy as np


def find_nearest_knot(sigma: float, knots: np.ndarray) -> int:
    """The index of the knot (K,) nearest to `sigma`; beyond the ends, the end. Of two as near, the first.

    By sigma and not by step index: step 20 of 28 is not step 20 of 50.
    """
    return int(np.argmin(np.abs(np.asarray(knots, np.float64) - sigma)))
