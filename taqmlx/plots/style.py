"""Common figure style: fonts, colour-blind safe colours, and byte-reproducible files.

Colours: Okabe and Ito, "Color Universal Design" (2008), for named items; viridis, cividis and PuOr for ordered ones.
"""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from taqmlx.planning.layers import MULTIMODAL_BLOCK
from taqmlx.store.checksum_files import checksummed
from taqmlx.store.files import write_atomically

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#B8A800",  # darker than Okabe and Ito's yellow, which is hard to see on white
    "#000000",
)
NAMED = (BLUE, RED, GREEN, ORANGE, PINK, SKY, YELLOW, BLACK)
DASHES = ("-", "--", ":", "-.")
GREY, PALE = "#666666", "#E4E4E4"
ORDERED, DIVERGING = "viridis", "PuOr"
STREAMS = {"image": BLUE, "text": RED, "unified": GREEN, "shared": GREY}
WIDTH = 9.0  # figure width, inches
DPI = 150
WIDE = 20.0  # ratio of the largest to the median value above which an axis is logarithmic
STYLE = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib, hence equal on all machines
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "plots",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Decorator: run `draw` with this style, whatever the process settings."""

    @wraps(draw)
    def draw_in_style(*values: P.args, **options: P.kwargs) -> T:
        with mpl.rc_context(STYLE):
            return draw(*values, **options)

    return draw_in_style


def create_figure(title: str, height: float, width: float = WIDTH) -> Figure:
    """Create an empty figure of `width` x `height` inches with a wrapped title."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, int(width * 11))))
    return figure


@styled
def save_figure(figure: Figure, path: Path) -> None:
    """Write `path`.png, with its name as metadata, and `path`.svg, without date or version: reproducible bytes."""
    files = {
        path.with_name(f"{path.name}.png"): {"Software": None, "Title": path.name},
        path.with_name(f"{path.name}.svg"): {"Date": None, "Creator": None},
    }
    with checksummed(path, *files):
        for file, metadata in files.items():
            write_atomically(file, partial(figure.savefig, dpi=DPI, metadata=metadata))


def cycle_styles(count: int) -> list[dict[str, Any]]:
    """Colours and dashes for `count` named lines; 32 are distinct."""
    return [
        {"color": NAMED[index % len(NAMED)], "linestyle": DASHES[index // len(NAMED) % len(DASHES)]}
        for index in range(count)
    ]


def choose_block_colours(count: int) -> np.ndarray:
    """Colours (count, 4) of blocks in order; the palest end of the colour map is excluded."""
    return mpl.colormaps[ORDERED](np.linspace(0, 0.92, max(count, 1)))


def add_block_scale(figure: Figure, axes: Sequence[Axes], blocks: Sequence[str]) -> None:
    """Add a colour bar that maps colours to blocks."""
    colours = mpl.colors.ListedColormap(choose_block_colours(len(blocks)))
    norm = BoundaryNorm(np.arange(len(blocks) + 1) - 0.5, len(blocks))
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, label="block", aspect=40, pad=0.02)
    places = thin(len(blocks))
    bar.set_ticks(places, labels=[blocks[place] for place in places], minor=False)
    bar.ax.minorticks_off()


def thin(count: int, most: int = 12) -> list[int]:
    """At most `most` of `count` indices, evenly spaced from the first, for labels."""
    return list(range(0, count, -(-count // most) or 1))


def shorten_block(block: str) -> str:
    """Label of a block: its name, without the prefix of a multimodal block."""
    return block.removeprefix(f"{MULTIMODAL_BLOCK}_")


def label_blocks(axes: Axes, blocks: Sequence[str], most: int = 12) -> None:
    """Label the blocks along the x axis, thinned if necessary."""
    places = thin(len(blocks), most)
    axes.set_xticks(places, labels=[shorten_block(blocks[place]) for place in places])
    axes.set_xlim(-0.6, len(blocks) - 0.4)
    axes.set_xlabel("block")
    axes.grid(visible=False, axis="x")


def follow_sigma(axes: Axes, sigmas: Sequence[float]) -> None:
    """Set up the x axis so that sigma decreases to the right, in sampling order."""
    low, high = min(sigmas), max(sigmas)
    margin = 0.02 * (high - low) or 0.05
    axes.set_xlim(high + margin, low - margin)
    axes.set_xlabel("sigma (noise level; sampling goes to the right)")


def is_wide(values: Sequence[float]) -> bool:
    """True if the largest of positive values would make most others invisible on a linear axis."""
    found = np.asarray(values, np.float64)
    return bool(found.size and found.min() > 0 and found.max() > WIDE * np.median(found))


def write_note(axes: Axes, text: str) -> None:
    """Write a note into an empty panel."""
    axes.text(0.5, 0.5, textwrap.fill(text, 60), transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
