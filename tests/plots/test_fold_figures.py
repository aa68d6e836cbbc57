"""Figures of folds show the channels before and after them, with the grids of their inputs."""

import numpy as np

from taqmlx.planning.folds import FOLDED_ROLES
from taqmlx.plots.fold_spread import draw_fold_spread, find_place
from taqmlx.plots.folds import choose_folds, draw_fold_ranges
from taqmlx.store.folds_file import Fold
from tests.plots.synthetic import build_folds

STATIC = {"bits": 8, "policy": "static", "group_size": "token"}


def make_fold(kind="scale", error=0.5, site="mm_00.text.mlp.fc1", before=(8, 2, 1, 0.01)):
    before = np.array(before, np.float32)
    return Fold(site, kind, np.ones_like(before), before, before / 4, (1.0, error))


def test_the_best_fold_of_each_kind_comes_first():
    errors = [("scale", 0.5), ("permutation", 0.9), ("scale", 0.1), ("scale", 0.2), ("permutation", 0.8)]
    chosen = choose_folds([make_fold(*pair) for pair in errors], 4)
    assert [(fold.kind, fold.errors[1]) for fold in chosen] == [
        ("scale", 0.1),
        ("permutation", 0.8),
        ("scale", 0.2),
        ("permutation", 0.9),
    ]


def test_channels_are_drawn_with_the_end_of_their_grid_and_half_a_step():
    fold = make_fold()
    before, after = draw_fold_ranges([fold], {fold.site: STATIC}).axes
    points, ends, halves = (line.get_ydata() for line in before.lines)
    np.testing.assert_array_equal(points, fold.before)
    np.testing.assert_array_equal(ends, [8] * 4)
    np.testing.assert_allclose(halves, [8 / 127 / 2] * 4)
    assert before.get_title().endswith("25.0 % of channels below half a step")
    assert "3.01 dB gained" in after.get_title()
    np.testing.assert_array_equal(after.lines[0].get_ydata(), fold.after)


def test_an_unquantized_input_has_no_step():
    fold = make_fold()
    axes = draw_fold_ranges([fold], {fold.site: {"bits": 16}}).axes[0]
    assert len(axes.lines) == 2
    assert axes.get_title().endswith("not quantized")


def test_the_median_channel_is_marked_at_the_block_of_the_fold():
    folds = [make_fold(site=f"mm_0{index}.attn.o_proj", before=(8, 2, 2, 2)) for index in (0, 1)]
    (axes,) = draw_fold_spread(folds, dict.fromkeys((fold.site for fold in folds), STATIC)).axes
    medians = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    assert [round(place) for place, _ in medians] == [0, 0, 1, 1]
    assert [unused for _, unused in medians] == [2, 2, 2, 2]
    (limit,) = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(limit, np.log2(254))


def test_every_kind_and_role_has_its_panel():
    folds, rules = build_folds(3)
    titles = [axes.get_title() for axes in draw_fold_spread(folds, rules).axes]
    assert len(titles) == len(set(titles)) == sum(map(len, FOLDED_ROLES.values()))


def test_the_input_of_o_proj_is_of_no_stream():
    assert find_place(make_fold(site="mm_03.attn.o_proj")) == ("mm_03", "", "o_proj")
    assert find_place(make_fold(site="uni_03.unified.attn.qkv")) == ("uni_03", "unified", "qkv")


def test_without_folds_the_figures_say_so():
    for draw in (draw_fold_ranges, draw_fold_spread):
        assert "No fold was kept" in draw([], {}).axes[0].texts[0].get_text()
