"""Which calibration points the activation statistics read."""

from collections.abc import Sequence

import numpy as np

# every how manyth step of each third of the trajectory the dense-middle choice takes
_EARLY_STRIDE, _MIDDLE_STRIDE, _LATE_STRIDE = 5, 3, 5


def choose_steps(choice: str | int, steps: Sequence[int]) -> list[int]:
    """The `steps` (ascending) that `choice` names.

    `all`; `key`, the ends, the quarters, every third step of the middle third and every fifth outside it (17 of 50);
    or a stride, with the last step added, where sigma is smallest.
    """
    n = len(steps)
    if choice == "all":
        return list(steps)
    if choice == "key":
        kept = {0, n - 1, n // 4, n // 2, 3 * n // 4}
        kept |= set(range(0, n // 3, _EARLY_STRIDE))
        kept |= set(range(n // 3, 2 * n // 3, _MIDDLE_STRIDE))
        kept |= set(range(2 * n // 3, n, _LATE_STRIDE))
    else:
        kept = {*range(0, n, int(choice)), n - 1}
    return [steps[i] for i in sorted(kept)]


def choose_points(point_steps: np.ndarray, steps: Sequence[int], limit: int, seed: int) -> np.ndarray:
    """The indices of the points to read, int64, ordered by step and within a step by index.

    Of `point_steps` (n,), those at `steps`; if `limit` is not 0, at most that many, shared evenly among the steps
    (earlier ones take the remainder) and drawn without replacement by a generator of `seed` and the step.
    """
    chosen = []
    for position, step in enumerate(steps):
        points = np.flatnonzero(point_steps == step)
        share = limit // len(steps) + (position < limit % len(steps)) if limit else len(points)
        if share < len(points):
            points = np.sort(np.random.default_rng([seed, int(step)]).permutation(points)[:share])
        chosen.append(points)
    return np.concatenate(chosen)
