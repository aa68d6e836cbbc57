"""Which states of the trajectories become calibration points, and in what order."""

import numpy as np


def select_steps(steps: int, count: int) -> np.ndarray:
    """`count` of the steps 0 to `steps - 1`, evenly spread, (count,) int64; fractions are cut off."""
    return np.linspace(0, steps - 1, count, dtype=np.int64)


def shuffle_points(count: int, seed: int) -> np.ndarray:
    """A permutation of `count` points, (count,) int64: place i of the shuffled set holds point `permutation[i]`."""
    return np.random.default_rng(seed).permutation(count)


def invert_permutation(permutation: np.ndarray) -> np.ndarray:
    """The place of each point, (n,) int32 (n < 2**31): `permutation[inverse[point]] == point`."""
    inverse = np.empty(len(permutation), dtype=np.int32)
    inverse[permutation] = np.arange(len(permutation), dtype=np.int32)
    return inverse
