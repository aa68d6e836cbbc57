"""Evaluation figures handle infinite ratios and missing values."""

import numpy as np
import pytest

from taqmlx.plots import evaluation, pictures
from tests.plots.synthetic import build_full_precision, build_variant

EXACT = {"fp": build_full_precision()}


def test_growth_shows_each_variant_in_both_runs():
    figure = evaluation.draw_error_growth(EXACT | {"a": build_variant("A", 10.0), "b": build_variant("B", 20.0)})
    for axes in figure.axes:
        assert [line.get_ydata()[-1] for line in axes.lines] == [11, 21]
        assert len(axes.collections) == 2


def test_an_infinite_ratio_is_omitted_from_growth():
    figure = evaluation.draw_error_growth({"a": build_variant("A", None)})
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).all()


def test_full_precision_alone_is_drawn_with_a_note():
    assert "only full precision" in evaluation.draw_error_growth(EXACT).axes[0].texts[0].get_text()
    assert "no variant has a finite value" in evaluation.draw_size_quality(EXACT, {}).axes[0].texts[0].get_text()


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (1.0, [0.5, 2.0], (1.0, 0.5, 2.0)),
        (1.0, [None, 2.0], (1.0, 1.0, 2.0)),
        (1.0, [None, None], (1.0, 1.0, 1.0)),
        (1.0, None, (1.0, 1.0, 1.0)),
        (None, [None, None], None),
    ],
)
def test_a_missing_interval_end_is_the_value(value, interval, expected):
    assert evaluation.as_measured(value, interval) == expected


def test_variants_of_equal_size_are_side_by_side():
    assert evaluation.spread_sizes({"a": 4.5, "b": 8.0, "c": 4.51, "d": 4.5}) == {"a": -1, "d": 0, "c": 1, "b": 0}


@pytest.mark.parametrize(
    ("widths", "expected"), [((16,), "o"), ((8,), "s"), ((8, 16), "s"), ((4, 6, 8), "P"), ((3,), "P")]
)
def test_markers_show_the_bits_of_inputs(widths, expected):
    assert evaluation.choose_marker({"activation_bits": list(widths)})[0] == expected


def test_a_width_without_its_own_marker_is_named():
    assert evaluation.choose_marker({"activation_bits": [3, 16]})[1] == "3-bit inputs"


@pytest.mark.parametrize("floor", [None, {"value": 0.1}, {"value": 30.0}])
def test_the_noise_floor_never_squeezes_the_variants(floor):
    found = {"fid_to_full_precision": floor}
    axes = evaluation.draw_size_quality(EXACT | {"a": build_variant("A", 10.0)}, found).axes[1]
    assert axes.get_ylim()[1] < 0.5


def test_variants_without_a_size_are_left_out():
    variants = {"a": build_variant("A", 10.0), "b": {"title": "B"}}
    assert len(evaluation.draw_size_quality(variants, {}).axes[0].collections) == 0
    assert "no variant" in evaluation.draw_size_quality({"b": {"title": "B"}}, {}).axes[0].texts[0].get_text()


def test_no_difference_is_grey_and_a_large_one_is_clipped():
    exact = np.full((2, 2, 3), 100, np.uint8)
    assert (pictures.show_difference(exact, exact, 4) == pictures.GREY_LEVEL).all()
    assert (pictures.show_difference(exact + 10, exact, 4) == pictures.GREY_LEVEL + 40).all()
    assert (pictures.show_difference(exact - 100, exact, 4) == 0).all()


def test_the_factor_fits_the_differences():
    exact = np.full((1, 8, 4, 4, 3), 100, np.uint8)
    assert pictures.choose_factor(np.concatenate([exact, exact + 10])) == 8
    assert pictures.choose_factor(np.concatenate([exact, exact + 150])) == 1
    assert pictures.choose_factor(exact) == max(pictures.FACTORS)


def test_half_of_the_columns_are_spread_and_half_are_the_worst_of_the_worst_variant():
    differences = np.array([np.arange(20.0), 100 - np.arange(20.0)])
    spread, worst = pictures.choose_columns(differences, 8)
    assert spread == [0, 6, 12, 19]
    assert worst == [1, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_each_of_few_pictures_is_shown_once(count):
    spread, worst = pictures.choose_columns(np.ones((1, count)), 8)
    assert sorted(spread + worst) == list(range(count))


def test_full_precision_alone_has_a_grid():
    spread, worst = pictures.choose_columns(np.zeros((0, 5)), 8)
    assert worst == []
    exact = np.zeros((1, len(spread), 8, 8, 3), np.uint8)
    assert pictures.draw_picture_grid(exact, ["full precision"], ["a prompt"] * len(spread)).axes
