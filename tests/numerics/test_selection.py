"""The points that statistics and capture use."""

import numpy as np
import pytest

from taqmlx.numerics.selection import choose_points, choose_spread_points


@pytest.fixture
def point_steps():
    return np.random.default_rng(0).permutation(np.repeat([0, 4, 8, 12], 10))


def test_all_points_of_the_steps_are_taken_in_order(point_steps):
    points = choose_points(point_steps, [4, 12], limit=0, seed=1)
    plain = [i for step in (4, 12) for i, found in enumerate(point_steps) if found == step]
    assert points.tolist() == plain


def test_a_limit_is_split_over_the_steps(point_steps):
    points = choose_points(point_steps, [0, 4, 8], limit=8, seed=1)
    assert np.bincount(point_steps[points], minlength=13)[[0, 4, 8]].tolist() == [3, 3, 2]
    assert len(set(points)) == 8


def test_the_seed_selects_the_points(point_steps):
    draw = {seed: choose_points(point_steps, [0, 4], 6, seed).tolist() for seed in (1, 2)}
    assert draw[1] == choose_points(point_steps, [0, 4], 6, 1).tolist()
    assert draw[1] != draw[2]


def test_a_limit_above_the_number_of_points_takes_all(point_steps):
    assert len(choose_points(point_steps, [0, 4], limit=1000, seed=0)) == 20


class TestSpreadPoints:
    """Points spread over steps and prompts."""

    STEPS, PROMPTS = [0, 4, 8, 12], 6

    @pytest.fixture
    def points(self):
        """The steps and prompts of 240 points: 10 of each step and prompt."""
        pairs = [(step, prompt) for step in self.STEPS for prompt in range(self.PROMPTS)] * 10
        return np.random.default_rng(0).permutation(pairs).T

    @staticmethod
    def choose_slowly(point_steps, point_prompts, limit, seed):
        """One point at a time: of the step's prompts the one with fewest points, there first, then in all steps."""
        steps, taken, chosen = sorted(set(point_steps)), [], []
        available = {step: list(point_steps).count(step) for step in steps}
        shares = dict.fromkeys(steps, 0)
        for _ in range(min(limit, len(point_steps))):
            open_steps = [step for step in steps if shares[step] < available[step]]
            shares[min(open_steps, key=lambda step: shares[step])] += 1
        for step in steps:
            left = np.random.default_rng([seed, step]).permutation(np.flatnonzero(point_steps == step)).tolist()
            here, before = [], list(taken)
            for _ in range(shares[step]):
                prompts = [point_prompts[point] for point in left]
                best = min(range(len(left)), key=lambda i: (here.count(prompts[i]), before.count(prompts[i])))
                here.append(prompts[best])
                chosen.append((step, left.pop(best)))
            taken += here
        return [point for _, point in sorted(chosen)]

    @pytest.mark.parametrize("limit", [4, 7, 24, 50, 100, 239, 240, 1000])
    def test_the_selection_equals_one_point_at_a_time(self, points, limit):
        assert choose_spread_points(*points, limit, 3).tolist() == self.choose_slowly(*points, limit, 3)

    @pytest.mark.parametrize("limit", [5, 40, 100])
    def test_the_selection_is_the_same_for_uneven_steps_and_prompts(self, limit):
        rng = np.random.default_rng(1)
        uneven = rng.choice(4, 90, p=[0.6, 0.3, 0.08, 0.02]), rng.choice(5, 90, p=[0.7, 0.1, 0.1, 0.05, 0.05])
        assert choose_spread_points(*uneven, limit, 0).tolist() == self.choose_slowly(*uneven, limit, 0)

    @pytest.mark.parametrize("limit", [4, 10, 33, 101])
    def test_no_step_and_no_prompt_gets_two_more_than_another(self, points, limit):
        chosen = choose_spread_points(*points, limit, 0)
        assert len(set(chosen)) == limit
        steps, prompts = points[:, chosen]
        assert np.ptp(np.bincount(steps, minlength=13)[self.STEPS]) <= 1
        assert np.ptp(np.bincount(prompts, minlength=self.PROMPTS)) <= 1
        for step in self.STEPS:
            assert np.ptp(np.bincount(prompts[steps == step], minlength=self.PROMPTS)) <= 1

    def test_a_limit_above_the_number_of_points_takes_all_in_order(self, points):
        chosen = choose_spread_points(*points, 1000, 0)
        assert chosen.tolist() == np.argsort(points[0], kind="stable").tolist()

    def test_the_seed_breaks_ties(self, points):
        draws = [choose_spread_points(*points, 20, seed).tolist() for seed in (1, 1, 2)]
        assert draws[0] == draws[1] != draws[2]
