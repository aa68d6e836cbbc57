"""Plot the ranges of the layer inputs by layer, channel and noise level, as PNG and SVG."""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from taqmlx.planning.stages import PlotActivations
from taqmlx.plots import channels, heatmaps, over_sigma, snapshots
from taqmlx.plots.style import save_figure
from taqmlx.runtime.entry import Progress, build_parser, run
from taqmlx.store.parameters import read_parameters
from taqmlx.store.statistics_file import read_statistics, read_statistics_arrays

NAMES = (
    "most_variable_layers",
    "largest_layers",
    "image_fc1",
    "text_mlp",
    "fc2_shift",
    "heatmap_absmax",
    "heatmap_variability",
    "heatmap_negative_share",
    "channel_ranges",
)


def main(arguments: argparse.Namespace) -> None:
    wanted = read_parameters(PlotActivations, arguments.params).snapshot_steps
    statistics = read_statistics(arguments.statistics)
    arrays = read_statistics_arrays(arguments.statistics, statistics)
    progress = Progress("plots", len(wanted) + len(NAMES), "figures")
    for step in wanted:
        figure = snapshots.draw_snapshot(
            statistics["steps"], statistics["sigmas"], take_series(statistics, "absmax"), step
        )
        save_figure(figure, arguments.out / f"absmax_step_{step:03d}")
        progress.advance()
    for name in NAMES:
        save_figure(draw(name, statistics, arrays), arguments.out / name)
        progress.advance()


def take_series(statistics: Mapping[str, Any], key: str) -> dict[str, list[float]]:
    """One statistic per step, by input name."""
    return {name: described["per_step"][key] for name, described in statistics["inputs"].items()}


def draw(name: str, statistics: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Figure:
    """The figure `name`."""
    sigmas, absmax = statistics["sigmas"], take_series(statistics, "absmax")
    shifts = {key.removesuffix("/shift"): array for key, array in arrays.items() if key.endswith("/shift")}
    extremes = {name: (arrays[f"{name}/minimum"], arrays[f"{name}/maximum"]) for name in statistics["inputs"]}
    middles = {name: (extremes[name][0] + extremes[name][1]) / 2 for name in shifts}
    return {
        "most_variable_layers": lambda: over_sigma.draw_most_variable(sigmas, absmax),
        "largest_layers": lambda: over_sigma.draw_largest(sigmas, absmax),
        "image_fc1": lambda: over_sigma.draw_image_fc1(sigmas, absmax),
        "text_mlp": lambda: over_sigma.draw_text_mlp(sigmas, absmax),
        "fc2_shift": lambda: over_sigma.draw_fc2_shift(sigmas, middles, shifts),
        "heatmap_absmax": lambda: heatmaps.draw_absmax_map(sigmas, absmax),
        "heatmap_variability": lambda: heatmaps.draw_variability_map(sigmas, absmax),
        "heatmap_negative_share": lambda: heatmaps.draw_negative_map(sigmas, take_series(statistics, "negative_share")),
        "channel_ranges": lambda: channels.draw_channel_ranges(extremes),
    }[name]()


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "statistics", "out"))
