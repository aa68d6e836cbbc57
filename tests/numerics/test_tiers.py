"""The fewest sufficient bits agree with plain loops."""

import numpy as np
import pytest

from taqmlx.numerics import tiers

CLIPS = {4: 0.5, 6: 0.9, 8: 0.97}
BUDGETS = [-np.inf, 10.0, 30.0, 40.0, 1000.0, np.inf]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def take_fewest_slowly(errors, budget):
    """The first of the bits in order whose error is at most 10^(-budget / 10), place by place."""
    limit = {-np.inf: np.inf, np.inf: -1.0, 1000.0: 1e-100}.get(budget, 10 ** (-budget / 10))
    chosen = []
    for place in range(len(errors[4])):
        fitting = [bits for bits in (4, 6, 8) if errors[bits][place] <= limit]
        chosen.append(fitting[0] if fitting else 8)
    return chosen


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_fewest_bits_within_the_budget_are_taken(rng, budget):
    errors = {bits: 10 ** -rng.uniform(0.5, 5, 50) for bits in (8, 4, 6)}  # not even ordered by bits
    assert tiers.take_fewest(errors, budget).tolist() == take_fewest_slowly(errors, budget)


def test_extreme_budgets_give_the_least_and_the_most_bits():
    errors = {4: np.array([0.0, 1.0, np.inf]), 6: np.zeros(3), 8: np.zeros(3)}
    assert tiers.take_fewest(errors, -np.inf)[:2].tolist() == [4, 4]
    assert tiers.take_fewest(errors, np.inf).tolist() == [8, 8, 8]


def test_a_nan_error_is_within_no_budget():
    assert int(tiers.take_fewest({4: np.nan, 6: np.nan, 8: np.nan}, 10)) == 8


def test_the_bits_of_a_weight_are_chosen_in_the_same_way():
    assert int(tiers.take_fewest({2: 1e-1, 4: 1e-3, 6: 1e-5, 8: 1e-7}, 35)) == 6


@pytest.mark.parametrize(("magnitude", "bits"), [(0.0, 4), (5.99, 4), (6.0, 6), (9.99, 6), (10.0, 8), (1e9, 8)])
def test_a_magnitude_at_a_threshold_gets_more_bits(magnitude, bits):
    assert tiers.take_by_threshold(np.array([magnitude]), [6, 10]).tolist() == [bits]


def test_a_noise_level_takes_the_bits_of_the_nearest_knot():
    found = tiers.move_to_knots(np.array([3, 2, 1]), [1.0, 0.5, 0.0], [0.9, 0.6, 0.4, 0.1, 0.0])
    assert found.tolist() == [3, 2, 2, 1, 1]


@pytest.mark.parametrize("has_shift", [True, False])
@pytest.mark.parametrize("has_migration", [True, False])
def test_channels_are_measured_as_they_are_quantized(rng, has_shift, has_migration):
    x = rng.standard_normal((3, 40, 6)).astype(np.float32) + 2  # (S, N, D)
    shift = np.linspace(-1, 3, 6, dtype=np.float32) if has_shift else None
    migration = np.array([4, 1, 1, 2, 1, 1], np.int32) if has_migration else None
    expected = x - (shift if has_shift else 0)
    expected = np.abs(expected / (migration if has_migration else 1)).max(axis=1)
    np.testing.assert_allclose(tiers.measure_channels(x.min(axis=1), x.max(axis=1), shift, migration), expected)


class TestSpikes:
    @pytest.fixture
    def flat(self, rng):
        return rng.uniform(0.5, 1.5, (3, 200))

    def test_even_channels_have_no_outliers(self, flat):
        """Though by definition at most 1 % of any channels exceed the 99 % one."""
        assert not tiers.find_spikes(flat).any()

    def test_channels_far_above_the_others_are_outliers_at_those_steps(self, flat):
        flat[1:, 7] = 20
        assert tiers.find_spikes(flat).tolist() == [False, True, True]

    def test_many_channels_far_above_the_others_are_no_outliers(self, flat):
        flat[:, :20] = 20
        assert not tiers.find_spikes(flat).any()

    def test_a_channel_slightly_above_the_others_is_no_outlier(self, flat):
        flat[:, 7] = 4
        assert not tiers.find_spikes(flat).any()

    def test_one_of_few_channels_can_be_an_outlier(self, flat):
        flat[:, 7] = 20
        assert tiers.find_spikes(flat[:, :30]).all()


class TestSteps:
    STEPS = np.array([0.1, 0.2, 0.3], np.float32)
    LARGEST = STEPS * 127  # the grid reaches all

    def test_magnitudes_are_clipped_and_divided_by_the_largest_code(self):
        found = tiers.narrow_steps(self.STEPS, 8, np.array([4, 6, 4]), self.LARGEST, CLIPS)
        expected = [0.1 * 127 * 0.5 / 7, 0.2 * 127 * 0.9 / 31, 0.3 * 127 * 0.5 / 7]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == np.float32

    def test_a_grid_is_not_wider_than_before(self):
        largest = self.LARGEST * np.array([1.5, 4, 4])
        found = tiers.narrow_steps(self.STEPS, 8, np.array([4, 4, 6]), largest, CLIPS)
        np.testing.assert_allclose(found, [0.1 * 127 * 0.75 / 7, 0.2 * 127 / 7, 0.3 * 127 / 31], rtol=1e-6)

    def test_equal_bits_keep_the_step_sizes(self):
        found = tiers.narrow_steps(self.STEPS, 8, np.array([8, 4, 8]), self.LARGEST / 2, CLIPS)
        assert found[[0, 2]].tolist() == self.STEPS[[0, 2]].tolist()

    def test_without_a_clip_the_grid_covers_all_values(self):
        found = tiers.narrow_steps(self.STEPS, 6, np.array([4, 4, 4]), self.STEPS * 31, {})
        np.testing.assert_allclose(found, self.STEPS * 31 / 7, rtol=1e-6)

    def test_a_tensor_of_zeros_has_positive_step_sizes(self):
        assert np.all(tiers.narrow_steps(self.STEPS, 8, np.array([4, 6, 4]), np.zeros(3), CLIPS) > 0)
