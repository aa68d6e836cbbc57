"""Selection and order of the trajectory states that become calibration points."""

import numpy as np


def select_steps(steps: int, count: int) -> np.ndarray:
    """`count` evenly spaced steps out of 0 to `steps - 1`, (count,) int64; fractions are truncated."""
    return np.linspace(0, steps - 1, count, dtype=np.int64)


def shuffle_points(count: int, seed: int) -> np.ndarray:
    """Permutation of `count` points, (count,) int64: position i of the shuffled set holds point `permutation[i]`."""
    return np.random.default_rng(seed).permutation(count)


def invert_permutation(permutation: np.ndarray) -> np.ndarray:
    """Position of each point, (n,) int32 (n < 2**31): `permutation[inverse[point]] == point`."""
    inverse = np.empty(len(permutation), dtype=np.int32)
    inverse[permutation] = np.arange(len(permutation), dtype=np.int32)
    return inverse
