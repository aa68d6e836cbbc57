"""The frontier of a family of quantizations, and the bits per weight that another one saves."""

import numpy as np
import pytest

from taqmlx.numerics.frontier import (
    describe_quality,
    describe_saving,
    find_bits,
    measure_saving,
    summarise,
    trace_frontier,
)
from taqmlx.planning.plain_ways import FAMILIES, FARTHEST_SPLIT, WIDTHS, list_plain

BITS = np.array([4.5, 2.5, 8.5, 6.5, 5.0])
QUALITY = np.array([12.0, 0.0, 36.0, 24.0, 11.0])


def test_a_frontier_omits_ways_that_a_smaller_one_equals():
    frontier = trace_frontier(BITS, QUALITY)
    assert frontier.bits.tolist() == [2.5, 4.5, 6.5, 8.5]
    assert frontier.quality.tolist() == [0, 12, 24, 36]


def test_of_two_ways_of_equal_size_the_better_one_is_kept():
    frontier = trace_frontier(np.array([4.0, 4.0, 5.0]), np.array([10.0, 12.0, 12.0]))
    assert (frontier.bits.tolist(), frontier.quality.tolist()) == ([4.0], [12.0])


def test_bits_are_interpolated_between_the_points_and_not_extrapolated():
    frontier = trace_frontier(BITS, QUALITY)
    assert find_bits(frontier, 18) == pytest.approx(5.5)
    assert find_bits(frontier, 50) == 8.5
    assert find_bits(frontier, -5) == 2.5


def test_the_saving_is_the_size_of_the_frontier_minus_the_own_size():
    others = np.tile(QUALITY[:, None], 20) + np.zeros(20)
    assert measure_saving(4.5, np.full(20, 24.0), BITS, others, low=False) == pytest.approx(2.0)
    assert measure_saving(4.5, np.full(20, 24.0), BITS, others, low=True) == pytest.approx(2.0)


def test_the_low_quantile_is_taken_per_row():
    ratios = np.arange(101.0)[None] * [[1], [2]]
    assert summarise(ratios, low=True).tolist() == [5, 10]
    assert summarise(ratios, low=False).tolist() == [50, 100]


def test_an_interval_contains_its_value_and_narrows_with_more_pictures():
    rng = np.random.default_rng(0)

    def width(count: int) -> float:
        ratios, others = (rng.normal(mean, 3, (len(mean), count)) for mean in (np.array([[24.0]]), QUALITY[:, None]))
        found = describe_saving(4.5, ratios[0], BITS, others, low=False, seed=0)
        low, high = found["interval_95"]
        assert low <= found["value"] <= high
        return high - low

    assert width(1600) < width(25)


def test_pictures_that_are_hard_for_all_ways_do_not_widen_an_interval():
    """Pictures are drawn again for all ways at once."""
    hard = np.random.default_rng(0).normal(0, 3, 50)
    found = describe_saving(4.5, 24 + hard, BITS, QUALITY[:, None] + hard, low=False, seed=0)
    assert found["value"] == pytest.approx(2.0)
    assert found["interval_95"] == pytest.approx([2.0, 2.0])


def test_pictures_below_5_db_are_counted():
    described = describe_quality(np.array([1.0, 4.9, 5.0, 30.0]), seed=0)
    assert described["otherwise"]["value"] == 0.5
    assert described["median"]["value"] == pytest.approx(4.95)
    assert described["otherwise"]["interval_95"][0] <= 0.5 <= described["otherwise"]["interval_95"][1]


def test_families_have_every_width_and_the_neighbouring_splits_once():
    ways = [plain for family in FAMILIES for plain in list_plain(family)]
    assert len(ways) == len(set(ways))
    for size in (32, 64, 128):
        assert {way.bits for way in ways if way.group_size == size and way.bits == way.modulation_bits} == set(WIDTHS)
    splits = [way for way in ways if way.bits != way.modulation_bits]
    assert splits
    assert all(abs(way.bits - way.modulation_bits) <= FARTHEST_SPLIT and way.group_size == 64 for way in splits)


def test_titles_state_the_call():
    titles = [plain.title for family in FAMILIES for plain in list_plain(family)]
    assert "nn.quantize, 4 bits, groups of 64" in titles
    assert "nn.quantize, adaLN 5, others 4 bits, groups of 64" in titles
