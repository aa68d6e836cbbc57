"""Quality against size: this project at several sizes, and all configurations of `nn.quantize`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from taqmlx.numerics.frontier import trace_frontier
from taqmlx.planning.evaluation_documents import Frontier, Quality, Way
from taqmlx.plots.style import BLUE, GREY, RED, create_figure, styled, write_note
from taqmlx.store.frontier_file import ROUNDED, UNROUNDED, list_ours, list_plain

QUALITIES: dict[Quality, str] = {"median": "the median picture", "p5": "the lowest 5 % of the pictures"}
OURS = {UNROUNDED: (BLUE, "o", -1), ROUNDED: (RED, "s", 1)}  # colour, marker, and side of the offset
APART = 1.5  # offset in points of our markers from their common size


@styled
def draw_frontier(frontier: Frontier, asked: float | None) -> Figure:
    """Plot median and 5th percentile of latent SNR over bits per weight; mark the bits saved at size `asked`."""
    figure = create_figure(
        f"Quality against size, {frontier['n']:,} pictures of held-out captions, {frontier['steps']} steps, guidance"
        f" {frontier['cfg']:g}",
        4.6,
    )
    plain, ours = list_plain(frontier), list_ours(frontier)
    for axes, (quality, title) in zip(figure.subplots(1, len(QUALITIES)), QUALITIES.items(), strict=True):
        axes.set(title=title, xlabel="bits per weight, over all linear layers, scales included")
        axes.set_ylabel("latent SNR to full precision (dB), higher is better")
        draw_plain(axes, plain, quality)
        for name in OURS:
            draw_ours(axes, [way for way in ours if way["name"] == name], quality)
        marked = [way for way in ours if way["name"] == ROUNDED and way["asked"] == asked]
        for way in marked:
            mark_saving(axes, way, quality)
        show_bits(axes, [way["bits_per_weight"] for way in (*plain, *ours)])
        if not ours:
            write_note(axes, "no size of this project was measured")
    titles = {way["name"]: way["title"] for way in ours}
    handles = [
        Line2D([], [], color=GREY, marker=".", label="nn.quantize: the best at each size"),
        Line2D(
            [], [], color=GREY, marker=".", alpha=0.4, linestyle="", label="nn.quantize: other bits and group sizes"
        ),
        *(
            Line2D([], [], color=colour, marker=mark, markersize=4, label=f"this project: {titles[name]}")
            for name, (colour, mark, _) in OURS.items()
            if name in titles
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, title="vertical lines: 95 % intervals")
    return figure


def draw_plain(axes: Axes, ways: Sequence[Way], quality: Quality) -> None:
    """Plot every `nn.quantize` configuration as a point, and a line through its Pareto front."""
    if not ways:
        return
    bits, found = np.array([[way["bits_per_weight"], way[quality]["value"]] for way in ways]).T
    best = trace_frontier(bits, found)
    axes.plot(bits, found, ".", color=GREY, alpha=0.4, markersize=4, zorder=1)
    axes.plot(*best, color=GREY, marker=".", zorder=2)


def draw_ours(axes: Axes, ways: Sequence[Way], quality: Quality) -> None:
    """Plot one of our configurations at every size, with intervals."""
    if not ways:
        return
    colour, mark, side = OURS[ways[0]["name"]]
    moved = axes.transData + ScaledTranslation(side * APART / 72, 0, axes.figure.dpi_scale_trans)
    bits, found = np.array(sorted((way["bits_per_weight"], way[quality]["value"]) for way in ways)).T
    axes.plot(bits, found, color=colour, marker=mark, markersize=4, linewidth=1, transform=moved, zorder=4)
    for way in ways:
        ends = [(way["bits_per_weight"], end) for end in way[quality]["interval_95"]]
        axes.plot(*zip(*ends, strict=True), color=colour, linewidth=1, transform=moved, zorder=3)
        axes.update_datalim(ends)  # transformed artists do not update the limits
    axes.autoscale_view()


def mark_saving(axes: Axes, way: Way, quality: Quality) -> None:
    """Draw an arrow from one of our sizes to the `nn.quantize` size of equal quality, with the difference."""
    saved, place = way["bits_saved"][quality], (way["bits_per_weight"], way[quality]["value"])
    end = place[0] + saved["value"], place[1]
    low, high = saved["interval_95"]
    colour, *_ = OURS[way["name"]]
    axes.annotate("", end, place, arrowprops={"arrowstyle": "->", "color": colour, "shrinkB": 0}, zorder=5)
    gain = f"{saved['value']:.2f} bits saved\n95 %: {low:.2f} to {high:.2f}"
    words = f"at {way['bits_per_weight']:.2f} bits per weight\n{gain}"
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(
        0.98, 0.04, words, color=colour, transform=axes.transAxes, ha="right", va="bottom", bbox=ground, zorder=1.5
    )


def show_bits(axes: Axes, sizes: Sequence[float]) -> None:
    """Set a tick at every whole number of bits."""
    low, high = np.floor(min(sizes)), np.ceil(max(sizes))
    axes.set_xlim(low - 0.2, high + 0.2)
    axes.set_xticks(np.arange(low, high + 1))
