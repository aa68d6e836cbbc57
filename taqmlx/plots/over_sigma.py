"""Plots of layer inputs over the noise level."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from taqmlx.plots.inputs import keep_inside, list_block_names, parse_names, select, shorten
from taqmlx.plots.style import (
    GREY,
    add_block_scale,
    choose_block_colours,
    create_figure,
    cycle_styles,
    follow_sigma,
    is_wide,
    styled,
    write_note,
)

Series = Mapping[str, Sequence[float]]
MOST_VARIABLE, LARGEST = 16, 12
ABSMAX = "absmax (activation units)"


@styled
def draw_most_variable(sigmas: Sequence[float], absmax: Series) -> Figure:
    """Plot the inputs with the largest ratio of absmax to its minimum over sigma: the motivation for time-awareness."""
    inside = keep_inside(absmax)
    relative = {name: np.asarray(values) / max(min(values), 1e-12) for name, values in inside.items()}
    title = f"The {min(MOST_VARIABLE, len(inside))} block inputs with the most variable range over the noise levels"
    return draw_named(sigmas, relative, MOST_VARIABLE, title, "absmax / its minimum over sigma")


@styled
def draw_largest(sigmas: Sequence[float], absmax: Series) -> Figure:
    """Plot the inputs with the largest absmax."""
    inside = keep_inside(absmax)
    title = f"The {min(LARGEST, len(inside))} block inputs with the largest absmax"
    return draw_named(sigmas, inside, LARGEST, title, ABSMAX)


def draw_named(sigmas: Sequence[float], series: Series, count: int, title: str, label: str) -> Figure:
    """Plot the `count` series with the largest maxima; the legend is in descending order."""
    chosen = sorted(series, key=lambda name: -max(series[name]))[:count]
    figure = create_figure(title, 4.5)
    axes = figure.add_subplot()
    for name, style in zip(chosen, cycle_styles(len(chosen)), strict=True):
        axes.plot(sigmas, series[name], label=shorten(name), **style)
    follow_sigma(axes, sigmas)
    axes.set_ylabel(label)
    if is_wide([value for name in chosen for value in series[name]]):
        axes.set_yscale("log")
    figure.legend(loc="outside right upper", title="largest first")
    return figure


@styled
def draw_image_fc1(sigmas: Sequence[float], absmax: Series) -> Figure:
    """Plot the inputs of the image stream's fc1."""
    return draw_by_block(sigmas, absmax, [("image", "fc1")], "Inputs of the image stream's fc1, by block")


@styled
def draw_text_mlp(sigmas: Sequence[float], absmax: Series) -> Figure:
    """Plot the inputs of the text stream's feed-forward layers."""
    return draw_by_block(
        sigmas, absmax, [("text", "fc1"), ("text", "fc2")], "Inputs of the text stream's feed-forward layers"
    )


def draw_by_block(sigmas: Sequence[float], absmax: Series, panels: Sequence[tuple[str, str]], title: str) -> Figure:
    """Plot one panel per (stream, role), with one line per block."""
    places = parse_names(absmax)
    blocks = list_block_names(places)
    figure = create_figure(title, 4)
    found = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (stream, role) in zip(found, panels, strict=True):
        lines = {place.block: absmax[place.name] for place in select(places, stream, role)}
        draw_lines(axes, sigmas, lines, blocks)
        axes.set(title=f"{stream} stream, input of {role}", ylabel=ABSMAX)
    add_block_scale(figure, list(found), blocks)
    return figure


def draw_lines(axes: Axes, sigmas: Sequence[float], lines: Series, blocks: Sequence[str]) -> None:
    """Plot one line per block in its colour, or a note if there is none."""
    colours = choose_block_colours(len(blocks))
    for block, values in lines.items():
        axes.plot(sigmas, values, color=colours[blocks.index(block)])
    follow_sigma(axes, sigmas)
    if not lines:
        write_note(axes, "this model has none")
    elif is_wide([value for values in lines.values() for value in values]):
        axes.set_yscale("log")


@styled
def draw_fc2_shift(
    sigmas: Sequence[float], middles: Mapping[str, np.ndarray], shifts: Mapping[str, np.ndarray]
) -> Figure:
    """Plot the offset of fc2 input channels from zero.

    middles: (S, D) by input, the middle of each channel's range; shifts: (D,) by input, the shift used by the layers.
    """
    places = parse_names(middles)
    blocks = list_block_names(places)
    streams = [stream for stream in ("image", "text", "unified") if select(places, stream, "fc2")]
    figure = create_figure("Channel offsets of fc2 inputs from zero, and the static shift", 6)
    panels = figure.subplots(2, max(len(streams), 1), squeeze=False)
    for row, (name, reduce) in zip(panels, {"largest": np.max, "mean": np.mean}.items(), strict=True):
        for axes, stream in zip(row, streams, strict=False):
            found = {p.block: p.name for p in select(places, stream, "fc2")}
            lines = {block: reduce(np.abs(middles[layer]), axis=1) for block, layer in found.items()}
            draw_lines(axes, sigmas, lines, blocks)
            mark_shifts(axes, {block: reduce(np.abs(shifts[layer])) for block, layer in found.items()}, blocks)
            axes.set(title=f"{stream} stream, {name} of the channels", ylabel="|middle of range|\n(activation units)")
    if not streams:
        write_note(panels[0, 0], "this model has no fc2 input in its blocks")
    add_block_scale(figure, list(panels.flat), blocks or ["none"])
    handles = [
        Line2D([], [], color=GREY, label="at each noise level"),
        Line2D([], [], color=GREY, marker="<", linestyle="", label="static shift used (right edge)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def mark_shifts(axes: Axes, shifts: Mapping[str, float], blocks: Sequence[str]) -> None:
    """Mark the static shift of each block at the right edge."""
    colours = choose_block_colours(len(blocks))
    for block, value in shifts.items():
        axes.plot(
            1,
            value,
            marker="<",
            color=colours[blocks.index(block)],
            transform=axes.get_yaxis_transform(),
            clip_on=False,
        )
