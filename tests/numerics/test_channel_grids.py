"""Grids of channels against a slow version, one channel at a time."""

import numpy as np
import pytest

from taqmlx.numerics.activation import compute_step
from taqmlx.numerics.channel_grids import measure_lost, measure_spread, measure_unused, place_grid

STATIC = {"bits": 8, "policy": "static", "group_size": "token"}
GROUPS = {"bits": 4, "policy": "dynamic", "group_size": 32}


@pytest.fixture
def absmax():
    return np.exp(np.random.default_rng(0).normal(0, 3, 96)).astype(np.float32)


@pytest.mark.parametrize(
    ("rule", "span"),
    [(STATIC, 96), (STATIC | {"policy": "lut"}, 96), (GROUPS, 32), (GROUPS | {"group_size": "token"}, 96)],
)
def test_a_channel_has_the_grid_of_its_group(absmax, rule, span):
    grid = place_grid(absmax, rule)
    for channel in range(len(absmax)):
        first = channel // span * span
        assert grid.ends[channel] == max(absmax[first : first + span])
        assert grid.steps[channel] == pytest.approx(compute_step(grid.ends[channel], rule["bits"]))


def test_an_unquantized_input_has_a_range_but_no_steps(absmax):
    grid = place_grid(absmax, {"bits": 16})
    assert grid.steps is None
    assert measure_lost(absmax, grid) is None
    assert set(grid.ends) == {absmax.max()}


def test_a_channel_of_a_quarter_of_the_grid_leaves_two_bits_unused_and_a_zero_one_is_left_out():
    absmax = np.array([8, 2, 0, 8], np.float32)
    np.testing.assert_allclose(measure_unused(absmax, place_grid(absmax, STATIC)), [0, 2, 0])


def test_lost_channels_are_those_that_round_to_zero(absmax):
    grid = place_grid(absmax, GROUPS)
    lost = [round(float(value / step)) == 0 for value, step in zip(absmax, grid.steps, strict=True)]
    assert 0 < sum(lost) < len(lost)
    assert measure_lost(absmax, grid) == sum(lost) / len(lost)
    assert measure_lost(np.append(absmax[:-1], np.float32(0)), grid) == pytest.approx(sum(lost[:-1]) / len(lost))


def test_the_spread_is_over_the_median_channel():
    assert measure_spread(np.array([1, 2, 8], np.float32)) == 4
    assert measure_spread(np.zeros(3, np.float32)) == float("inf")
