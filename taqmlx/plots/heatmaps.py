"""Heatmaps of every layer input at every noise level."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from taqmlx.plots.inputs import (
    ROLES,
    keep_inside,
    list_block_names,
    list_outside,
    list_stream_names,
    parse_names,
    select,
    shorten,
)
from taqmlx.plots.style import DIVERGING, ORDERED, create_figure, styled, thin, write_note

Series = Mapping[str, Sequence[float]]


@styled
def draw_absmax_map(sigmas: Sequence[float], absmax: Series) -> Figure:
    """Plot absmax on a logarithmic scale that spans the blocks' inputs."""
    values = np.array(list(keep_inside(absmax).values()))
    positive = values[values > 0]
    limits = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    return draw_map(
        sigmas, absmax, LogNorm(*limits), ORDERED, "Absmax of every input", "absmax (activation units, log)"
    )


@styled
def draw_variability_map(sigmas: Sequence[float], absmax: Series) -> Figure:
    """Plot absmax relative to its geometric mean over the noise levels, in bits.

    The colour scale spans the blocks' inputs.
    """
    logs = {name: np.log2(np.maximum(values, 1e-12)) for name, values in absmax.items()}
    bits = {name: values - values.mean() for name, values in logs.items()}
    most = max(1e-6, max(float(np.abs(values).max()) for values in keep_inside(bits).values()))
    title = "Range of every input relative to its mean over the noise levels"
    label = "absmax / its geometric mean over sigma (bits: 1 = twice as large)"
    return draw_map(sigmas, bits, TwoSlopeNorm(0, -most, most), DIVERGING, title, label)


@styled
def draw_negative_map(sigmas: Sequence[float], shares: Series) -> Figure:
    """Plot the share of negative values."""
    title = "Share of negative values of every input"
    return draw_map(sigmas, shares, TwoSlopeNorm(0.5, 0, 1), DIVERGING, title, "negative share (0.5: balanced)")


def draw_map(sigmas: Sequence[float], series: Series, norm: Normalize, colours: str, title: str, label: str) -> Figure:
    """Plot a panel per stream and role, with blocks from top to bottom, and a panel of inputs outside the blocks."""
    places = parse_names(series)
    streams, blocks, outside = list_stream_names(places), list_block_names(places), list_outside(places)
    height = min(1.0 + 0.07 * len(blocks), 2.2)
    figure = create_figure(title, len(ROLES) * height + 2.6)
    ratios = [*[height] * len(ROLES), 1.3]
    grid = figure.add_gridspec(len(ROLES) + 1, max(len(streams), 1), height_ratios=ratios)
    panels: list[Axes] = []
    for column, stream in enumerate(streams):
        for row, role in enumerate(ROLES):
            panels.append(figure.add_subplot(grid[row, column]))
            found = select(places, stream, role)
            paint(panels[-1], sigmas, [series[place.name] for place in found], norm, colours)
            name_rows(panels[-1], [place.block for place in found], "block")
            panels[-1].set_title(f"{stream} stream, {ROLES[role]}")
    if outside:
        panels.append(figure.add_subplot(grid[len(ROLES), :]))
        paint(panels[-1], sigmas, [series[name] for name in outside], norm, colours)
        name_rows(panels[-1], [shorten(name) for name in outside], "input")
        panels[-1].set_title("inputs outside the blocks")
    beyond = any(min(values) < norm.vmin or max(values) > norm.vmax for values in series.values())
    ends = "both" if beyond else "neither"
    figure.colorbar(ScalarMappable(norm, colours), ax=panels, label=label, aspect=50, pad=0.02, extend=ends)
    return figure


def paint(axes: Axes, sigmas: Sequence[float], rows: Sequence[Sequence[float]], norm: Normalize, colours: str) -> None:
    """Paint rows over sigma, with cell edges halfway between noise levels; write a note if there are no rows."""
    axes.set(xlabel="sigma")
    if not rows:
        write_note(axes, "this model has none")
        return
    edges = find_edges(np.asarray(sigmas, np.float64))
    axes.pcolormesh(edges, np.arange(len(rows) + 1) - 0.5, np.array(rows), norm=norm, cmap=colours, rasterized=True)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(visible=False)


def find_edges(sigmas: np.ndarray) -> np.ndarray:
    """Cell edges of S levels: halfway to the neighbours and never below 0, S + 1 values."""
    if len(sigmas) == 1:
        return sigmas[0] + np.array([0.5, -0.5]) * 0.1
    middles = (sigmas[1:] + sigmas[:-1]) / 2
    return np.concatenate([[2 * sigmas[0] - middles[0]], middles, [max(2 * sigmas[-1] - middles[-1], 0.0)]])


def name_rows(axes: Axes, names: Sequence[str], label: str) -> None:
    """Label the rows, thinned if necessary."""
    places = thin(len(names), 8)
    axes.set_yticks(places, labels=[names[place] for place in places])
    axes.set_ylabel(label)
