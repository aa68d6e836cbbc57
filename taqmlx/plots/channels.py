"""Plots of per-channel ranges of layer inputs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from taqmlx.numerics.ranges import OUTLIER_RANGE
from taqmlx.plots.inputs import keep_inside, shorten
from taqmlx.plots.style import BLUE, ORANGE, create_figure, styled

PANELS = 4


@styled
def draw_channel_ranges(extremes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Plot each channel's minimum and maximum over all steps, for the block inputs with the largest channel spread.

    extremes: by input, the minimum and maximum of each channel, (S, D) each.
    """
    ranges = {name: (low.min(axis=0), high.max(axis=0)) for name, (low, high) in keep_inside(extremes).items()}
    chosen = sorted(ranges, key=lambda name: -measure_spread(*ranges[name]))[:PANELS]
    figure = create_figure("Channel ranges of the inputs with the largest channel spread, over all steps", 7.2)
    panels = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    for axes, name in zip(panels, chosen, strict=True):
        draw_ranges(axes, name, *ranges[name])
    handles = [
        Line2D([], [], color=BLUE, linewidth=2, label="channel minimum to maximum"),
        Line2D([], [], color=ORANGE, linewidth=2, label=f"outlier: range over {OUTLIER_RANGE} times the median range"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def draw_ranges(axes: Axes, name: str, low: np.ndarray, high: np.ndarray) -> None:
    """Plot a line from the smallest to the largest value of each channel (D,)."""
    far = find_outliers(low, high)
    channels = np.arange(len(low))
    width = float(np.clip(400 / len(low), 0.5, 2.5))
    for chosen, colour, scale in ((~far, BLUE, 1), (far, ORANGE, 1.5)):
        axes.vlines(
            channels[chosen], low[chosen], high[chosen], colors=colour, linewidth=width * scale, rasterized=True
        )
    axes.set_xlim(-0.01 * len(low), 1.01 * len(low))
    axes.set_title(
        f"{shorten(name)}: largest of {len(low)} channel ranges {measure_spread(low, high):.1f} times the median;"
        f" outliers: {int(far.sum())}"
    )
    axes.set(xlabel="channel", ylabel="value\n(activation units)")


def measure_spread(low: np.ndarray, high: np.ndarray) -> float:
    """Ratio of the largest channel range to the median one."""
    ranges = high.astype(np.float64) - low
    middle = float(np.median(ranges))
    return float(ranges.max()) / middle if middle else 1.0


def find_outliers(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """True for each channel whose range exceeds OUTLIER_RANGE times the median range, (D,) bool."""
    ranges = high.astype(np.float64) - low
    return ranges > OUTLIER_RANGE * np.median(ranges)
