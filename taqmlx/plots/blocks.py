"""Plots of the block optimisation, and of the layers most sensitive to quantization."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from taqmlx.planning.layers import STREAMS
from taqmlx.plots.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    ORDERED,
    PALE,
    PINK,
    add_block_scale,
    choose_block_colours,
    create_figure,
    label_blocks,
    shorten_block,
    styled,
    write_note,
)
from taqmlx.store.block_report import ENGINES, INPUTS

MARKERS = {"rtn": (ORANGE, "s"), "gptq": (BLUE, "^"), "adaround": (PINK, "o")}
NUMBERED = 12  # largest number of blocks for which errors are also written as numbers
SHARED = "q, k, v"
LAYERS = (SHARED, "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "adaLN_modulation")
DB = "output SNR (dB)"
SMOOTHED = 0.05  # share of the iterations in the running mean
FLOOR = 1e-12


def convert_to_db(error: float | None) -> float:
    """Convert a relative squared error to a ratio in dB, higher is better; NaN if not measured, inf for zero error."""
    if error is None:
        return float("nan")
    return float(-10 * np.log10(error)) if error > FLOOR else float("inf")


@styled
def draw_convergence(reports: Sequence[Mapping[str, Any]], warm_ups: Mapping[str, float]) -> Figure:
    """Plot the loss over the iterations of every block's report.

    warm_ups: by block, the iteration at which the regularizer towards 0 and 1 starts, where known. Reports of engines
    without a loss are left out, and the title gives their number.
    """
    blocks = [report["block"] for report in reports]
    with_loss = [report for report in reports if has_loss(report)]
    figure = create_figure("AdaRound loss over the iterations, by block", 4.5)
    axes = figure.add_subplot()
    axes.set(
        xlabel="iteration", ylabel="loss (squared error of a row / mean square of its\ntarget, summed over streams)"
    )
    colours = choose_block_colours(len(blocks))
    for report in with_loss:
        draw_loss(axes, report["loss"], colours[blocks.index(report["block"])])
    for iteration in sorted({warm_ups[report["block"]] for report in with_loss if report["block"] in warm_ups}):
        axes.axvline(iteration, color=BLACK, linestyle="--", linewidth=0.8, label="end of the warm-up")
    if not with_loss:
        write_note(axes, "No block was optimised by AdaRound: the other engines have no loss.")
        return figure
    axes.set_yscale("log")
    add_block_scale(figure, [axes], blocks)
    if skipped := len(reports) - len(with_loss):
        axes.set_title(f"{skipped} of {len(reports)} blocks left out: their engine has no loss")
    axes.plot([], [], color=GREY, label=f"running mean over {SMOOTHED:.0%} of the iterations; faint: each value")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def has_loss(report: Mapping[str, Any]) -> bool:
    """True if the block was optimised iteratively: other engines report no loss values."""
    return bool((report.get("loss") or {}).get("values"))


def draw_loss(axes: Axes, loss: Mapping[str, Any], colour: np.ndarray) -> None:
    """Plot the values faintly and their running mean clearly."""
    values = np.asarray(loss["values"], np.float64)
    at = (np.arange(len(values)) + 0.5) * loss["every"]
    axes.plot(at, values, color=colour, linewidth=0.5, alpha=0.35)
    width = max(1, round(SMOOTHED * len(values)))
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    axes.plot(at[width - 1 :] - (width - 1) / 2 * loss["every"], smooth, color=colour)


@styled
def draw_block_errors(reports: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the error of each block's output by stream and engine, with full-precision and with quantized inputs."""
    blocks = [report["block"] for report in reports]
    engines = [name for name in ENGINES if any(name in report["errors"] for report in reports)]
    streams = find_streams(errors for r in reports for engine in r["errors"].values() for errors in engine.values())
    figure = create_figure("Error of each block's output with quantized weights, by engine", 1.4 + 2.6 * len(streams))
    panels = figure.subplots(len(streams), 1, squeeze=False)[:, 0]
    for axes, stream in zip(panels, streams, strict=True):
        for engine in engines:
            for kind in INPUTS:
                values = [report["errors"].get(engine, {}).get(kind, {}).get(stream) for report in reports]
                draw_engine(axes, engine, kind, [convert_to_db(value) for value in values])
        label_blocks(axes, blocks, 24)
        axes.set(title=f"{stream} stream", ylabel=DB)
    handles = [Line2D([], [], color=MARKERS[name][0], marker=MARKERS[name][1], label=ENGINES[name]) for name in engines]
    handles += [
        Line2D([], [], color=GREY, marker="o", label=INPUTS["full_precision_inputs"]),
        Line2D([], [], color=GREY, marker="o", fillstyle="none", linestyle=":", label=INPUTS["quantized_inputs"]),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return figure


def find_streams(errors: Any) -> list[str]:
    """Streams that occur in any of the mappings, image first."""
    found = {stream for mapping in errors for stream in mapping}
    return [stream for stream in STREAMS if stream in found]


def draw_engine(axes: Axes, engine: str, kind: str, values: Sequence[float]) -> None:
    """Plot one engine's errors by block; hollow markers for quantized inputs."""
    colour, marker = MARKERS[engine]
    rounded = kind == "quantized_inputs"
    axes.plot(
        range(len(values)),
        values,
        color=colour,
        marker=marker,
        markersize=4,
        linewidth=0.8,
        linestyle=":" if rounded else "-",
        fillstyle="none" if rounded else "full",
    )


@styled
def draw_layer_errors(sensitivities: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the error of the block's output with one layer's weight in 4 bits, or its input in 8 bits."""
    blocks = [described["block"] for described in sensitivities]
    sides = (
        ("weight in 4 bits", take_weight_errors(sensitivities, "4")),
        ("input in 8 bits", take_input_errors(sensitivities, "8")),
    )
    streams = [s for s in STREAMS if any(s == stream for _, errors in sides for _, stream, _ in errors)]
    figure = create_figure("Block output error with one layer quantized", 1.2 + 2.1 * 2 * max(len(streams), 1))
    parts = figure.subfigures(2, 1)
    for part, (title, errors) in zip(parts, sides, strict=True):
        panels = part.subplots(max(len(streams), 1), 1, squeeze=False)[:, 0]
        finite = [value for value in map(convert_to_db, errors.values()) if np.isfinite(value)] or [0.0]
        norm = Normalize(min(finite), max(*finite, min(finite) + 1))
        for axes, stream in zip(panels, streams, strict=False):
            mesh = paint_errors(axes, blocks, stream, errors, norm)
            axes.set_title(f"{stream} stream, one layer's {title}")
        if streams:
            part.colorbar(mesh, ax=list(panels), label=DB, aspect=30, pad=0.02)
    return figure


Errors = dict[tuple[str, str, str], float]


def paint_errors(axes: Axes, blocks: Sequence[str], stream: str, errors: Errors, norm: Normalize) -> QuadMesh:
    """Paint layers by block as colours, with numbers in the cells if there is room.

    Cells without such a layer are grey; an ∞ marks zero error.
    """
    layers = [layer for layer in LAYERS if any((s, found) == (stream, layer) for _, s, found in errors)]
    table = np.array([[convert_to_db(errors.get((b, stream, layer))) for b in blocks] for layer in layers])
    mesh = axes.pcolormesh(np.ma.masked_invalid(table), norm=norm, cmap=f"{ORDERED}_r", rasterized=True)
    mesh.set_edgecolor("white")
    axes.set_facecolor(PALE)
    places = [*range(len(blocks))]
    axes.set_xticks([place + 0.5 for place in places], labels=[shorten_block(block) for block in blocks])
    axes.set_yticks(np.arange(len(layers)) + 0.5, labels=[layer.removesuffix("_modulation") for layer in layers])
    axes.set(xlabel="block", ylabel="layer", xlim=(0, len(blocks)), ylim=(len(layers), 0))
    axes.grid(visible=False)
    for (row, column), value in np.ndenumerate(table):
        if np.isposinf(value) or (np.isfinite(value) and len(blocks) <= NUMBERED):
            text = "∞" if np.isposinf(value) else f"{value:.1f}"
            ink = "black" if np.isposinf(value) or norm(value) < 0.4 else "white"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=7)
    return mesh


def split_layer(name: str) -> tuple[str, str, str]:
    """Return block, stream and last part of a layer's name."""
    block, stream, *_, last = name.split(".")
    return block, stream, last


def take_weight_errors(sensitivities: Sequence[Mapping[str, Any]], bits: str) -> Errors:
    """Errors from a layer's weight, summed over the block's streams, by block, stream and layer."""
    return {
        split_layer(name): sum(about["errors"][bits].get(stream) or 0.0 for stream in STREAMS)
        for described in sensitivities
        for name, about in described["weights"].items()
        if bits in about["errors"]
    }


def take_input_errors(sensitivities: Sequence[Mapping[str, Any]], bits: str) -> Errors:
    """Errors from an input, averaged over noise levels, by block, stream and reader; q, k and v share one input."""
    return {
        (*split_layer(reader)[:2], split_layer(reader)[2] if len(about["layers"]) == 1 else SHARED): float(
            np.mean(about["tiers"][bits]["errors"])
        )
        for described in sensitivities
        for reader, about in described["inputs"].items()
        if bits in about["tiers"]
    }
