"""Histograms of fc2 inputs before the shift, after it, and after shift and migration, with their quantization grid."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from taqmlx.plots.inputs import parse_name, shorten
from taqmlx.plots.style import BLUE, GREY, ORANGE, create_figure, styled, write_note

ROWS = 4
GRID_LINES = 16  # largest number of grid levels drawn
# (title, counts, edges, step size; if None, the step size whose grid reaches the absmax)
STAGES = (
    ("original", "before", "edges", None),
    ("after the shift", "shifted", "shifted_edges", "step"),
    ("after shift + migration", "migrated", "migrated_edges", "migrated_step"),
)


@styled
def draw_distributions(described: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, np.ndarray]) -> Figure:
    """Plot histograms: rows are the layers with the largest range reduction, columns the transformation stages.

    described: by layer `sigma`, `bits`, `step`, `migrated_step` and `has_migration`; arrays: `<layer>/before` and so
    on, 256 counts between 257 edges each.
    """
    chosen = choose_layers(described, arrays)
    sigmas = sorted({described[layer]["sigma"] for layer in chosen}, reverse=True)
    title = "Inputs of fc2 and their quantization grid" + ", sigma " * bool(sigmas)
    figure = create_figure(title + ", ".join(f"{sigma:.3g}" for sigma in sigmas), 1.4 + 1.9 * max(len(chosen), 1))
    panels = figure.subplots(max(len(chosen), 1), len(STAGES), squeeze=False)
    for row, layer in zip(panels, chosen, strict=False):
        for axes, stage in zip(row, STAGES, strict=True):
            draw_stage(axes, layer, described[layer], arrays, *stage)
    if not chosen:
        for axes in panels.flat:
            axes.set(xlabel="value (activation units)", ylabel="values")
            write_note(axes, "no fc2 input was observed")
    handles = [
        Patch(color=BLUE, label="values"),
        Line2D([], [], color=GREY, linewidth=0.5, label=f"grid levels (at most {GRID_LINES} shown)"),
        Line2D([], [], color=ORANGE, linestyle="--", label="ends of the grid"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def choose_layers(described: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Layers whose absmax is reduced most by shift and migration, in block order."""

    def measure_gain(layer: str) -> float:
        edges = [arrays[f"{layer}/{name}"] for _, _, name, _ in STAGES if f"{layer}/{name}" in arrays]
        return float(np.abs(edges[0]).max() / max(np.abs(edges[-1]).max(), 1e-12))

    return sorted(sorted(described, key=lambda layer: (-measure_gain(layer), layer))[:ROWS])


def draw_stage(
    axes: Axes,
    layer: str,
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    title: str,
    counts: str,
    edges: str,
    step: str | None,
) -> None:
    """Plot one histogram with its grid, or a note if there is none."""
    axes.set(xlabel="value (activation units)", ylabel="values (log)")
    short = f"{parse_name(layer).block} {parse_name(layer).stream}" if parse_name(layer).block else shorten(layer)
    axes.set_title(f"{short}, {title}")
    if f"{layer}/{counts}" not in arrays or (counts == "migrated" and not about["has_migration"]):
        write_note(axes, "no migration: no outlier channel")
        return
    heights, places = arrays[f"{layer}/{counts}"], np.asarray(arrays[f"{layer}/{edges}"], np.float64)
    size = about[step] if step else np.abs(places).max() / count_positive(about["bits"])
    axes.stairs(np.maximum(heights, 0.5), places, fill=True, color=BLUE, baseline=0.5)
    axes.set_yscale("log")
    ends = draw_grid(axes, size, about["bits"])
    margin = 0.04 * (max(ends[1], places[-1]) - min(ends[0], places[0]))
    axes.set_xlim(min(ends[0], places[0]) - margin, max(ends[1], places[-1]) + margin)
    axes.set_title(
        f"{short}, {title}\nstep {size:.3g}, {share_used(places, heights, size, about['bits']):.0%} of levels used"
    )


def count_positive(bits: int) -> int:
    """Number of positive levels of a signed symmetric grid."""
    return 2 ** (bits - 1) - 1


def draw_grid(axes: Axes, step: float, bits: int) -> tuple[float, float]:
    """Plot the levels -2^(b-1) to 2^(b-1) - 1 times `step`, thinned to at most GRID_LINES; return the two ends."""
    levels = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    stride = max(1, len(levels) // GRID_LINES)
    axes.grid(visible=False)
    for level in levels[levels % stride == 0]:
        axes.axvline(level * step, color=GREY, linewidth=0.5, zorder=3)
    ends = (float(levels[0] * step), float(levels[-1] * step))
    for end in ends:
        axes.axvline(end, color=ORANGE, linestyle="--", zorder=4)
    return ends


def share_used(edges: np.ndarray, counts: Sequence[int], step: float, bits: int) -> float:
    """Share of the grid's levels between the smallest and the largest value."""
    filled = np.flatnonzero(np.asarray(counts))
    if not len(filled):
        return 0.0
    low, high = np.clip(np.round(edges[[filled[0], filled[-1] + 1]] / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return float(high - low + 1) / 2**bits
