"""Every figure of a model with 24 blocks and 285 layers is readable."""

import numpy as np
import pytest

from taqmlx.plots import (
    blocks,
    channels,
    distributions,
    evaluation,
    fold_spread,
    folds,
    frontier,
    heatmaps,
    over_sigma,
    pictures,
    snapshots,
)
from taqmlx.plots.style import create_figure
from tests.plots.readable import check_readable, find_overlaps
from tests.plots.synthetic import (
    SIGMAS,
    STEPS,
    build_folds,
    build_frontier,
    build_full_precision,
    build_reports,
    build_sensitivity,
    build_statistics,
    build_variant,
    name_blocks,
    take_absmax,
)

DEPTH = 24
INPUTS, ARRAYS = build_statistics(DEPTH)
ABSMAX = take_absmax(INPUTS)
SHARES = {name: about["per_step"]["negative_share"] for name, about in INPUTS.items()}
SHIFTS = {name: ARRAYS[f"{name}/shift"] for name in INPUTS if name.endswith("fc2")}
EXTREMES = {name: (ARRAYS[f"{name}/minimum"], ARRAYS[f"{name}/maximum"]) for name in INPUTS}
MIDDLES = {name: sum(EXTREMES[name]) / 2 for name in SHIFTS}
REPORTS = build_reports(DEPTH)
SENSITIVITIES = [build_sensitivity(block, DEPTH, seed=seed) for seed, block in enumerate(name_blocks(DEPTH))]
DESCRIBED = {name: about for content, _ in SENSITIVITIES for name, about in content["distributions"].items()}
HISTOGRAMS = {name: array for _, arrays in SENSITIVITIES for name, array in arrays.items()}
VARIANTS = {"fp": build_full_precision()} | {
    f"row_{index}": build_variant(f"row {index}, whose title says at some length what is quantized in it", 10.0 + index)
    for index in range(12)
}
FOLDS, RULES = build_folds(DEPTH)
PICTURES = np.random.default_rng(0).integers(0, 255, (5, 8, 64, 64, 3)).astype(np.uint8)
CAPTION = "worst: an orange background behind a large triangle to the left of a small circle (seed 1000000)"

FIGURES = {
    "absmax_step": lambda: snapshots.draw_snapshot(STEPS, SIGMAS, ABSMAX, 25),
    "most_variable_layers": lambda: over_sigma.draw_most_variable(SIGMAS, ABSMAX),
    "largest_layers": lambda: over_sigma.draw_largest(SIGMAS, ABSMAX),
    "image_fc1": lambda: over_sigma.draw_image_fc1(SIGMAS, ABSMAX),
    "text_mlp": lambda: over_sigma.draw_text_mlp(SIGMAS, ABSMAX),
    "fc2_shift": lambda: over_sigma.draw_fc2_shift(SIGMAS, MIDDLES, SHIFTS),
    "heatmap_absmax": lambda: heatmaps.draw_absmax_map(SIGMAS, ABSMAX),
    "heatmap_variability": lambda: heatmaps.draw_variability_map(SIGMAS, ABSMAX),
    "heatmap_negative_share": lambda: heatmaps.draw_negative_map(SIGMAS, SHARES),
    "channel_ranges": lambda: channels.draw_channel_ranges(EXTREMES),
    "distributions": lambda: distributions.draw_distributions(DESCRIBED, HISTOGRAMS),
    "adaround_convergence": lambda: blocks.draw_convergence(REPORTS, {"mm_00": 40.0}),
    "block_errors": lambda: blocks.draw_block_errors(REPORTS),
    "layer_errors": lambda: blocks.draw_layer_errors([content for content, _ in SENSITIVITIES]),
    "fold_ranges": lambda: folds.draw_fold_ranges(FOLDS, RULES),
    "fold_spread": lambda: fold_spread.draw_fold_spread(FOLDS, RULES),
    "error_growth": lambda: evaluation.draw_error_growth(VARIANTS),
    "size_quality": lambda: evaluation.draw_size_quality(VARIANTS, {"fid_to_full_precision": {"value": 2.0}}),
    "frontier": lambda: frontier.draw_frontier(build_frontier(), 4.5),
    "picture_grid": lambda: pictures.draw_picture_grid(
        PICTURES, [about["title"] for about in VARIANTS.values()][:5], [CAPTION] * 8
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_texts_overlap_and_all_axes_are_labelled(name):
    check_readable(FIGURES[name]())


def test_the_check_finds_overlapping_labels():
    figure = create_figure("too many names", 2, 2)
    axes = figure.add_subplot()
    axes.set_xticks(range(30), labels=[f"mm_{index:02d}.image" for index in range(30)])
    assert find_overlaps(figure)
