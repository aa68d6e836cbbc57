"""Plot of all folds: how much of its grid each channel uses, before and after them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from taqmlx.numerics.activation import find_largest_code
from taqmlx.numerics.channel_grids import measure_unused, place_grid
from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.plots.folds import SIDES, Rules, draw_none
from taqmlx.plots.inputs import ROLES
from taqmlx.plots.style import BLACK, GREY, create_figure, label_blocks, styled
from taqmlx.store.folds_file import Fold

LOW, HIGH = 5, 95  # percentiles of the channels at the ends of a line
MARKERS = {
    "image": "o",
    "text": "s",
    "unified": "o",
    "": "o",
}  # of the median, by stream; both share an input of o_proj
APART = 0.17  # blocks between two lines


class Place(NamedTuple):
    """The block, stream (empty if shared) and role of an input with a fold."""

    block: str
    stream: str
    role: str


def find_place(fold: Fold) -> Place:
    """Block, stream and role of the input of a fold, from its name: `mm_00.image.mlp.fc1` or `mm_00.attn.o_proj`."""
    block, *parts, role = fold.site.split(".")
    return Place(block, parts[0] if len(parts) > 1 else "", role)


@styled
def draw_fold_spread(folds: Sequence[Fold], rules: Rules) -> Figure:
    """Plot the bits of its grid that each channel leaves unused, before and after every fold, by role and kind."""
    kinds = sorted({(tuple(ROLES).index(find_place(fold).role), fold.kind) for fold in folds})
    title = "Bits of their grid that the channels of an input leave unused, before and after every fold"
    figure = create_figure(title, 1.4 + 1.75 * max(len(kinds), 1))
    if not folds:
        return draw_none(figure)
    blocks = sorted({find_place(fold).block for fold in folds})
    for axes, (role, kind) in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds, strict=True):
        name = tuple(ROLES)[role]
        own = [fold for fold in folds if (find_place(fold).role, fold.kind) == (name, kind)]
        for fold in own:
            draw_fold(axes, fold, blocks, rules)
        for bits in {rules[fold.site]["bits"] for fold in own} - {UNQUANTIZED}:
            axes.axhline(np.log2(2 * find_largest_code(bits)), color=BLACK, linestyle="--", linewidth=0.8)
        label_blocks(axes, blocks, 24)
        axes.invert_yaxis()
        axes.set(title=f"{kind} of the inputs of {ROLES[name]}", ylabel="unused bits")
    figure.legend(handles=list_handles(), loc="outside lower center", ncols=3)
    return figure


def draw_fold(axes: Axes, fold: Fold, blocks: Sequence[str], rules: Rules) -> None:
    """Plot two lines at the block of a fold, before and after it, over the percentiles of its channels."""
    place = find_place(fold)
    centre = blocks.index(place.block) + {"image": -APART, "text": APART}.get(place.stream, 0)
    for at, (side, colour) in zip((centre - APART / 2, centre + APART / 2), SIDES.items(), strict=True):
        absmax = getattr(fold, side)
        unused = measure_unused(absmax, place_grid(absmax, rules[fold.site]))
        low, median, high = np.percentile(unused, (LOW, 50, HIGH)) if len(unused) else (0, 0, 0)
        axes.vlines(at, low, high, colors=colour, linewidth=1.5)
        axes.plot(at, median, MARKERS[place.stream], color=colour, markersize=3.5, markeredgecolor="white")


def list_handles() -> list[Line2D]:
    """Entries of the legend."""
    return [
        *(Line2D([], [], color=colour, linewidth=1.5, label=side) for side, colour in SIDES.items()),
        Line2D([], [], color=BLACK, linestyle="--", label="half a step"),
        Line2D([], [], color=GREY, linewidth=1.5, label=f"percentiles {LOW} to {HIGH} of the channels"),
        Line2D([], [], color=GREY, marker="o", linestyle="", markersize=3.5, label="median channel"),
        Line2D([], [], color=GREY, marker="s", linestyle="", markersize=3.5, label="median channel, text stream"),
    ]
