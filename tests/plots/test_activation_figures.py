"""Activation figures show the values they are given."""

import numpy as np
import pytest

from taqmlx.plots import channels, heatmaps, over_sigma, snapshots
from tests.plots.synthetic import SIGMAS, STEPS, build_statistics, take_absmax

INPUTS, ARRAYS = build_statistics(3)
ABSMAX = take_absmax(INPUTS)
INSIDE = [values for name, values in ABSMAX.items() if name.startswith("mm_")]


def test_a_snapshot_has_a_bar_for_every_input_at_its_step():
    figure = snapshots.draw_snapshot(STEPS, SIGMAS, ABSMAX, STEPS[2])
    inside = [bar.get_height() for axes in figure.axes[:4] for bar in axes.patches]
    outside = [bar.get_width() for bar in figure.axes[4].patches]
    np.testing.assert_allclose(sorted(inside + outside), sorted(values[2] for values in ABSMAX.values()))


def test_the_title_names_the_step_shown_instead_of_another():
    assert snapshots.name_snapshot(STEPS, SIGMAS, 8).endswith(f"at step 8, sigma {SIGMAS[1]:.3g}")
    assert "at step 24" in snapshots.name_snapshot(STEPS, SIGMAS, 25)
    assert "nearest observed to step 25" in snapshots.name_snapshot(STEPS, SIGMAS, 25)


def test_a_dominant_bar_makes_the_axis_logarithmic():
    assert snapshots.choose_scale([1, 2, 3, 200]) == "log"
    assert snapshots.choose_scale([1, 2, 3, 40]) == "linear"
    assert snapshots.choose_scale([]) == "linear"


def test_the_largest_inputs_come_first_and_noise_decreases_to_the_right():
    figure = over_sigma.draw_largest(SIGMAS, ABSMAX)
    peaks = [max(line.get_ydata()) for line in figure.axes[0].lines]
    assert peaks == sorted((max(values) for values in INSIDE), reverse=True)[: len(peaks)]
    left, right = figure.axes[0].get_xlim()
    assert left > right


def test_the_most_variable_inputs_are_drawn_relative_to_their_minimum():
    figure = over_sigma.draw_most_variable(SIGMAS, ABSMAX)
    ratios = sorted((max(values) / min(values) for values in INSIDE), reverse=True)
    drawn = [max(line.get_ydata()) for line in figure.axes[0].lines]
    np.testing.assert_allclose(drawn, ratios[: len(drawn)])


def test_a_model_without_text_feed_forward_layers_is_drawn_with_a_note():
    image = {name: values for name, values in ABSMAX.items() if ".text." not in name}
    figure = over_sigma.draw_text_mlp(SIGMAS, image)
    assert [axes.texts[0].get_text() for axes in figure.axes[:2]] == ["this model has none"] * 2


def test_the_shift_figure_shows_the_largest_and_mean_distance_from_zero():
    middles = {"mm_00.image.mlp.fc2": np.array([[1.0, -3.0], [2.0, 0.0]])}
    figure = over_sigma.draw_fc2_shift([1.0, 0.5], middles, {"mm_00.image.mlp.fc2": np.array([1.5, -1.0])})
    (largest, static), (mean, static_mean) = (axes.lines for axes in figure.axes[:2])
    assert list(largest.get_ydata()) == [3, 2]
    assert list(mean.get_ydata()) == [2, 1]
    assert static.get_ydata()[0] == 1.5
    assert static_mean.get_ydata()[0] == 1.25


def test_variability_is_in_bits_around_the_mean_of_each_input():
    figure = heatmaps.draw_variability_map([1.0, 0.5], {"mm_00.image.mlp.fc1": [1.0, 4.0]})
    (mesh,) = figure.axes[2].collections
    np.testing.assert_allclose(mesh.get_array().ravel(), [-1, 1])


def test_a_role_without_inputs_has_a_note_in_its_panel():
    figure = heatmaps.draw_absmax_map([1.0, 0.5], {"mm_00.image.mlp.fc1": [1.0, 4.0]})
    assert [len(axes.texts) for axes in figure.axes[:4]] == [1, 1, 0, 1]


def test_columns_end_half_way_to_their_neighbours():
    np.testing.assert_allclose(heatmaps.find_edges(np.array([1.0, 0.6, 0.1])), [1.2, 0.8, 0.35, 0.0])


@pytest.mark.parametrize("sigmas", [[0.7], [1.0, 0.3]])
def test_maps_of_few_levels_are_drawn(sigmas):
    heatmaps.draw_absmax_map(sigmas, {"mm_00.image.mlp.fc1": [2.0] * len(sigmas), "modulation": [0.0] * len(sigmas)})


def test_channels_beyond_two_and_a_half_median_ranges_are_outliers():
    low, high = -np.ones(5), np.array([1.0, 1.0, 1.0, 4.1, 3.9])
    assert channels.find_outliers(low, high).tolist() == [False, False, False, True, False]
    assert channels.measure_spread(low, high) == pytest.approx(5.1 / 2)


def test_the_widest_inputs_in_blocks_are_chosen():
    extremes = {name: (ARRAYS[f"{name}/minimum"], ARRAYS[f"{name}/maximum"]) for name in INPUTS}
    titles = [axes.get_title() for axes in channels.draw_channel_ranges(extremes).axes]
    assert len(titles) == channels.PANELS
    assert all(title.startswith("mm_") for title in titles)
