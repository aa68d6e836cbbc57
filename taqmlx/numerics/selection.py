"""Which calibration points are read: for the activation statistics, and for the blocks' inputs."""

from collections.abc import Sequence

import numpy as np


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


def choose_spread_points(point_steps: np.ndarray, point_prompts: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """The indices of at most `limit` points, int64, ordered by step and within a step by index.

    Of points at `point_steps` (n,) and of `point_prompts` (n,): steps get equal numbers as far as theirs last, earlier
    ones the remainder; within a step so do prompts, the remainder going to those that have fewest from earlier steps.
    What is left open a generator of `seed` and the step decides.
    """
    steps, step_of = np.unique(point_steps, return_inverse=True)
    prompts, prompt_of = np.unique(point_prompts, return_inverse=True)
    shares = np.bincount(step_of[take_evenly(step_of, limit, step_of)], minlength=len(steps))
    taken = np.zeros(len(prompts), dtype=np.int64)
    chosen = []
    for step, share in zip(steps, shares, strict=True):
        points = np.random.default_rng([seed, int(step)]).permutation(np.flatnonzero(point_steps == step))
        points = points[take_evenly(prompt_of[points], share, taken[prompt_of[points]])]
        taken += np.bincount(prompt_of[points], minlength=len(prompts))
        chosen.append(np.sort(points))
    return np.concatenate(chosen)


def take_evenly(groups: np.ndarray, limit: int, order: np.ndarray) -> np.ndarray:
    """The places of `limit` entries of `groups` (n,), an entry of each group in turn while the group lasts.

    In each turn entries with lower `order` (n,) come first, and of those the earlier ones.
    """
    by_group = np.argsort(groups, kind="stable")
    turns = np.empty(len(groups), dtype=np.int64)
    turns[by_group] = np.arange(len(groups)) - np.searchsorted(groups[by_group], groups[by_group])
    return np.lexsort((order, turns))[:limit]


def hold_out_groups(groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Whether each entry is held out, bool (n,): `share` of the distinct `groups` (n,) are, whole, one at least.

    Points of prompts that took part flatter what was learned: on the embedded model by up to 2 dB. Raises ValueError if
    there is one group only.
    """
    unique = np.unique(groups)
    if len(unique) < 2:
        raise ValueError("one group cannot be learned from and held out")
    count = min(max(1, round(share * len(unique))), len(unique) - 1)
    return np.isin(groups, np.random.default_rng(seed).permutation(unique)[:count])
