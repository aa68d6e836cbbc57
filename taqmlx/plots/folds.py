"""Plots of folds: the channel ranges of layer inputs before and after them, with the grids of the inputs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from taqmlx.numerics.channel_grids import ChannelGrid, measure_lost, place_grid
from taqmlx.numerics.quality import to_decibels
from taqmlx.planning.layer_rules import InputRule
from taqmlx.plots.inputs import shorten
from taqmlx.plots.style import BLACK, BLUE, ORANGE, create_figure, styled, write_note
from taqmlx.store.folds_file import Fold

PANELS = 5
SIDES = {"before": ORANGE, "after": BLUE}

# rules of layer inputs, by the names that folds give the inputs
Rules = Mapping[str, InputRule]


@styled
def draw_fold_ranges(folds: Sequence[Fold], rules: Rules) -> Figure:
    """Plot each channel's absmax and grid before and after a fold, for the folds of each kind with the largest gain."""
    chosen = choose_folds(folds, PANELS)
    title = (
        f"Channel ranges before and after {len(chosen)} of {len(folds)} folds, of each kind those with the largest gain"
    )
    figure = create_figure(title, 1.4 + 2.2 * max(len(chosen), 1))
    if not chosen:
        return draw_none(figure)
    panels = figure.subplots(len(chosen), 2, sharey="row", squeeze=False)
    for row, fold in zip(panels, chosen, strict=True):
        for axes, side in zip(row, SIDES, strict=True):
            draw_channels(axes, fold, side, place_grid(getattr(fold, side), rules[fold.site]))
    handles = [
        *(Line2D([], [], color=SIDES[side], marker=".", linestyle="", label=f"channel, {side}") for side in SIDES),
        Line2D([], [], color=BLACK, label="largest value of its grid"),
        Line2D([], [], color=BLACK, linestyle="--", label="half a step"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def draw_none(figure: Figure) -> Figure:
    """Write into `figure` that there are no folds."""
    write_note(
        figure.add_subplot(xlabel="channel", ylabel="absmax"), "No fold was kept: none lowers the held-out error."
    )
    return figure


def choose_folds(folds: Sequence[Fold], count: int) -> list[Fold]:
    """`count` folds: the one of each kind that lowers its block's error most, then the second of each, and so on."""
    ranked = sorted(folds, key=measure_gain, reverse=True)
    places = [sum(other.kind == fold.kind for other in ranked[:index]) for index, fold in enumerate(ranked)]
    order = sorted(range(len(ranked)), key=lambda index: (places[index], index))
    return [ranked[index] for index in order[:count]]


def measure_gain(fold: Fold) -> float:
    """Reduction of the block's held-out error by the fold, dB."""
    return to_decibels(*fold.errors)


def draw_channels(axes: Axes, fold: Fold, side: str, grid: ChannelGrid) -> None:
    """Plot the absmax of each channel on one side of a fold with its grid, on a logarithmic axis."""
    absmax = getattr(fold, side)
    channels, used = np.arange(len(absmax)), grid.ends > 0
    axes.plot(channels, np.where(absmax > 0, absmax, np.nan), ".", color=SIDES[side], markersize=2.5, rasterized=True)
    levels = [("-", grid.ends), *([("--", grid.steps / 2)] if grid.steps is not None else [])]
    for dash, level in levels:
        line = np.where(used, level, np.nan)
        axes.plot(channels, line, color=BLACK, linewidth=0.8, linestyle=dash, drawstyle="steps-mid")
    axes.set_yscale("log")
    lost = measure_lost(absmax, grid)
    words = "not quantized" if lost is None else f"{100 * lost:.1f} % of channels below half a step"
    gain = f", {measure_gain(fold):.2f} dB gained" if side == "after" else ""
    axes.set_title(f"{shorten(fold.site)}, {side} {fold.kind}{gain}\n{words}")
    axes.set(xlabel="channel", ylabel="absmax (activation units)")
