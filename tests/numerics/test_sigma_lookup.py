"""Values are looked up between calibrated noise levels."""

import itertools

import numpy as np
import pytest

from taqmlx.numerics.schedule import compute_sigmas
from taqmlx.numerics.sigma_lookup import LOOKUPS

KNOTS, VALUES = np.array([1.0, 0.7, 0.2, 0.01]), np.array([4.0, 1.0, 2.0, 8.0])
SIGMAS = [2.0, 1.0, 0.99, 0.86, 0.84, 0.7, 0.5, 0.2, 0.1, 0.01, 0.0]


def look_up(sigma, knots, values, lookup):
    """What the weights make of the values at the knots."""
    return float(LOOKUPS[lookup](sigma, knots) @ np.asarray(values, np.float64))


def interpolate_slowly(sigma, knots, values):
    """The line through the neighbouring knots; the end's value beyond the ends."""
    pairs = sorted(zip(knots, values, strict=True))
    if sigma <= pairs[0][0]:
        return pairs[0][1]
    for (left, low), (right, high) in itertools.pairwise(pairs):
        if sigma <= right:
            return low + (high - low) * (sigma - left) / (right - left)
    return pairs[-1][1]


def take_nearest_slowly(sigma, knots, values):
    return min(zip(knots, values, strict=True), key=lambda pair: abs(pair[0] - sigma))[1]


TWINS = {"nearest": take_nearest_slowly, "interpolated": interpolate_slowly}


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_values_between_and_beyond_the_knots_follow_the_lookup(lookup, order):
    knots, values = KNOTS[order], VALUES[order]
    for sigma in SIGMAS:
        assert look_up(sigma, knots, values, lookup) == pytest.approx(TWINS[lookup](sigma, knots, values), abs=1e-12)


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_knot_has_its_own_value_exactly(lookup):
    for knot, value in zip(KNOTS, VALUES.astype(np.float32) / 3, strict=True):
        assert look_up(knot, KNOTS, VALUES.astype(np.float32) / 3, lookup) == value


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_single_knot_applies_everywhere(lookup):
    assert [look_up(sigma, np.array([0.5]), np.array([3.0]), lookup) for sigma in (0.0, 0.5, 1.0)] == [3.0] * 3


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_weights_sum_to_one(lookup):
    for sigma in SIGMAS:
        weights = LOOKUPS[lookup](sigma, KNOTS)
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)


def test_schedules_of_fewer_steps_use_the_noise_levels_of_more():
    """28 steps on what 100 were calibrated at: by sigma no step is further off than half the gap around it."""
    knots, sigmas = (np.array(compute_sigmas(steps, 3.0)[:-1], np.float64) for steps in (100, 28))
    for sigma in sigmas:
        found = look_up(sigma, knots, knots, "nearest")
        assert abs(found - sigma) == np.abs(knots - sigma).min()
        assert look_up(sigma, knots, knots, "interpolated") == pytest.approx(sigma, abs=1e-9)
