"""The frontier of a family of ways to quantize, and the bits per weight that another way saves against it."""

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


def test_a_frontier_leaves_out_what_a_smaller_way_equals():
    frontier = trace_frontier(BITS, QUALITY)
    assert frontier.bits.tolist() == [2.5, 4.5, 6.5, 8.5]
    assert frontier.quality.tolist() == [0, 12, 24, 36]


def test_of_two_ways_of_one_size_the_better_one_stays():
    frontier = trace_frontier(np.array([4.0, 4.0, 5.0]), np.array([10.0, 12.0, 12.0]))
    assert (frontier.bits.tolist(), frontier.quality.tolist()) == ([4.0], [12.0])


def test_bits_lie_between_the_points_and_never_beyond_the_ends():
    frontier = trace_frontier(BITS, QUALITY)
    assert find_bits(frontier, 18) == pytest.approx(5.5)
    assert find_bits(frontier, 50) == 8.5
    assert find_bits(frontier, -5) == 2.5


def test_the_saving_is_what_the_others_need_less_what_is_taken():
    others = np.tile(QUALITY[:, None], 20) + np.zeros(20)
    assert measure_saving(4.5, np.full(20, 24.0), BITS, others, low=False) == pytest.approx(2.0)
    assert measure_saving(4.5, np.full(20, 24.0), BITS, others, low=True) == pytest.approx(2.0)


def test_the_low_quantile_is_that_of_each_row():
    ratios = np.arange(101.0)[None] * [[1], [2]]
    assert summarise(ratios, low=True).tolist() == [5, 10]
    assert summarise(ratios, low=False).tolist() == [50, 100]


def test_an_interval_holds_its_value_and_narrows_with_the_pictures():
    rng = np.random.default_rng(0)

    def width(count: int) -> float:
        ratios, others = (rng.normal(mean, 3, (len(mean), count)) for mean in (np.array([[24.0]]), QUALITY[:, None]))
        found = describe_saving(4.5, ratios[0], BITS, others, low=False, seed=0)
        low, high = found["interval_95"]
        assert low <= found["value"] <= high
        return high - low

    assert width(1600) < width(25)


def test_pictures_that_all_ways_find_hard_widen_no_interval():
    """Pictures are drawn again for all ways at once."""
    hard = np.random.default_rng(0).normal(0, 3, 50)
    found = describe_saving(4.5, 24 + hard, BITS, QUALITY[:, None] + hard, low=False, seed=0)
    assert found["value"] == pytest.approx(2.0)
    assert found["interval_95"] == pytest.approx([2.0, 2.0])


def test_pictures_below_five_decibels_turn_out_otherwise():
    described = describe_quality(np.array([1.0, 4.9, 5.0, 30.0]), seed=0)
    assert described["otherwise"]["value"] == 0.5
    assert described["median"]["value"] == pytest.approx(4.95)
    assert described["otherwise"]["interval_95"][0] <= 0.5 <= described["otherwise"]["interval_95"][1]


def test_families_have_every_width_and_the_near_splits_once():
    ways = [plain for family in FAMILIES for plain in list_plain(family)]
    assert len(ways) == len(set(ways))
    for size in (32, 64, 128):
        assert {way.bits for way in ways if way.group_size == size and way.bits == way.modulation_bits} == set(WIDTHS)
    splits = [way for way in ways if way.bits != way.modulation_bits]
    assert splits
    assert all(abs(way.bits - way.modulation_bits) <= FARTHEST_SPLIT and way.group_size == 64 for way in splits)


def test_titles_say_what_is_called():
    titles = [plain.title for family in FAMILIES for plain in list_plain(family)]
    assert "nn.quantize, 4 bits, groups of 64" in titles
    assert "nn.quantize, adaLN 5, others 4 bits, groups of 64" in titles
