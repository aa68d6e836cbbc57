"""Selection of calibration points for the activation statistics and the block inputs, and of held-out groups."""

from collections.abc import Sequence

import numpy as np


def choose_points(point_steps: np.ndarray, steps: Sequence[int], limit: int, seed: int) -> np.ndarray:
    """Indices of the points to read, int64, ordered by step and within a step by index.

    Only points of `point_steps` (n,) at `steps` are taken. If `limit` is not 0, at most that many are: split evenly
    over steps, with the remainder to earlier steps, and drawn without replacement by an RNG seeded with (seed, step).
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
    """Indices of at most `limit` points, int64, ordered by step and within a step by index.

    `point_steps` (n,) and `point_prompts` (n,) are the step and prompt of each point. Points are split evenly over
    steps, capped by availability; earlier steps get the remainder. Within a step they are split evenly over prompts in
    the same way; the remainder goes to the prompts with the fewest points from earlier steps. Ties are broken by an RNG
    seeded with (seed, step).
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
    """Indices of `limit` entries of `groups` (n,), taken round-robin from the groups until each is exhausted.

    Within a round, entries with lower `order` (n,) come first, and earlier entries on a tie.
    """
    by_group = np.argsort(groups, kind="stable")
    turns = np.empty(len(groups), dtype=np.int64)
    turns[by_group] = np.arange(len(groups)) - np.searchsorted(groups[by_group], groups[by_group])
    return np.lexsort((order, turns))[:limit]


def hold_out_groups(groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Mask of held-out entries, bool (n,): a `share` of the distinct `groups` (n,), as whole groups, at least one.

    Points of training prompts overestimate the quality of what was learned: by up to 2 dB on the embedded model. Raises
    ValueError if there is only one group.
    """
    unique = np.unique(groups)
    if len(unique) < 2:
        raise ValueError("at least 2 groups are needed to hold one out")
    count = min(max(1, round(share * len(unique))), len(unique) - 1)
    return np.isin(groups, np.random.default_rng(seed).permutation(unique)[:count])
