"""The figure of quality against size: its content, and equal bytes when drawn again."""

import numpy as np
import pytest

from taqmlx.numerics.frontier import trace_frontier
from taqmlx.plots.frontier import draw_frontier
from taqmlx.plots.style import save_figure
from taqmlx.store.frontier_file import find_best, list_ours, list_plain
from tests.plots.synthetic import build_frontier


def test_both_panels_have_every_way_the_frontier_and_both_of_ours():
    frontier = build_frontier()
    plain = list_plain(frontier)
    for axes, key in zip(draw_frontier(frontier, None).axes, ("median", "p5"), strict=True):
        points, line, *ours = axes.lines
        values = [way[key]["value"] for way in plain]
        assert points.get_ydata().tolist() == values
        best = trace_frontier(np.array([way["bits_per_weight"] for way in plain]), np.array(values))
        assert line.get_xdata().tolist() == best.bits.tolist()
        assert len(ours) == 2 * (1 + 6)  # a line, and an interval at each size


def test_the_length_of_the_arrow_at_the_configured_size_is_the_bits_saved():
    frontier = build_frontier()
    (own,) = [way for way in list_ours(frontier) if way["asked"] == 4.5 and way["name"] == "w_a8"]
    for axes, key in zip(draw_frontier(frontier, 4.5).axes, ("median", "p5"), strict=True):
        arrow, words = axes.texts
        start, end = arrow.xyann, arrow.xy
        assert end[0] - start[0] == pytest.approx(own["bits_saved"][key]["value"])
        assert start == (own["bits_per_weight"], own[key]["value"])
        assert words.get_text() == "at 4.50 bits per weight\n1.35 bits saved\n95 %: 1.50 to 2.25"


def test_without_a_configured_size_nothing_is_marked():
    assert [axes.texts[:] for axes in draw_frontier(build_frontier(), None).axes] == [[], []]


def test_every_interval_is_within_the_axes():
    frontier = build_frontier()
    for axes, key in zip(draw_frontier(frontier, 4.5).axes, ("median", "p5"), strict=True):
        low, high = axes.get_ylim()
        ends = [end for way in list_ours(frontier) for end in way[key]["interval_95"]]
        assert low <= min(ends)
        assert max(ends) <= high


def test_a_rerun_gives_the_same_bytes(tmp_path):
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        save_figure(draw_frontier(build_frontier(), 4.5), folder / "frontier")
    for name in ("frontier.png", "frontier.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_best_ways_of_the_file_are_those_of_the_traced_frontier():
    frontier = build_frontier()
    plain = np.array([[way["bits_per_weight"], way["median"]["value"]] for way in list_plain(frontier)])
    best = trace_frontier(*plain.T)
    found = [(way["bits_per_weight"], way["median"]["value"]) for way in find_best(frontier)]
    assert found == list(zip(best.bits.tolist(), best.quality.tolist(), strict=True))
