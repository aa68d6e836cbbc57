"""Pictures of several variants side by side, with their differences from full precision."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from taqmlx.plots.style import WIDTH, create_figure, styled

GREY_LEVEL, GAP, PAPER = 128, 0.05, 255  # grey of zero difference; gap as a share of the picture width; gap colour
FACTORS = (1, 2, 4, 8, 16, 32)
CAPTION, LABEL = 14, 24  # characters per line
CAPTION_LINES = 8
EDGE = 256  # largest picture edge in pixels
TALLEST = 16.0  # inches


@styled
def draw_picture_grid(pictures: np.ndarray, titles: Sequence[str], captions: Sequence[str]) -> Figure:
    """Plot prompts in columns and variants in rows, full precision first, each other variant with its difference below.

    pictures: (variants, columns, h, w, 3) uint8. The difference is quantized minus full precision times a common
    factor, around grey.
    """
    factor = choose_factor(pictures)
    rows, labels = [pictures[0]], [titles[0]]
    for found, title in zip(pictures[1:], titles[1:], strict=True):
        rows += [found, show_difference(found, pictures[0], factor)]
        labels += [title, f"difference × {factor}, clipped (grey: none)"]
    mosaic, xs, ys = lay_out(np.stack(rows))
    figure = create_figure("The same prompts and seeds in every variant", 0)
    scale = (WIDTH - 1.8) / mosaic.shape[1]
    figure.set_figheight(min(mosaic.shape[0] * scale + 1.6, TALLEST))
    axes = figure.add_subplot()
    axes.imshow(mosaic, interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False, top=False)
    axes.set_xticks(xs, labels=[wrap(text, CAPTION, CAPTION_LINES) for text in captions], fontsize=7)
    axes.set_yticks(ys, labels=[wrap(label, LABEL, 4) for label in labels])
    axes.set(xlabel="prompt and seed (worst: largest difference in the worst variant)", ylabel="variant")
    return figure


def choose_factor(pictures: np.ndarray) -> int:
    """Largest factor that does not clip the median difference picture, except for 1 % of its values."""
    differences = np.abs(pictures[1:].astype(np.int16) - pictures[0])
    most = np.median(np.percentile(differences, 99, axis=(2, 3, 4))) if differences.size else 0
    return max((factor for factor in FACTORS if factor * most <= PAPER - GREY_LEVEL), default=FACTORS[0])


def show_difference(found: np.ndarray, exact: np.ndarray, factor: int) -> np.ndarray:
    """`factor` times the difference of uint8 pictures, around grey, clipped to uint8."""
    difference = found.astype(np.int32) - exact
    return np.clip(GREY_LEVEL + factor * difference, 0, 255).astype(np.uint8)


def lay_out(pictures: np.ndarray) -> tuple[np.ndarray, list[float], list[float]]:
    """Tile (rows, columns, h, w, 3) with gaps; return the mosaic and the centres of its columns and rows in pixels."""
    rows, columns, height, width, _ = pictures.shape
    gap = max(1, round(GAP * width))
    mosaic = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), PAPER, np.uint8)
    for row, column in np.ndindex(rows, columns):
        top, left = row * (height + gap), column * (width + gap)
        mosaic[top : top + height, left : left + width] = pictures[row, column]
    xs = [column * (width + gap) + (width - 1) / 2 for column in range(columns)]
    ys = [row * (height + gap) + (height - 1) / 2 for row in range(rows)]
    return mosaic, xs, ys


def wrap(text: str, length: int, lines: int) -> str:
    """Wrap text to at most `lines` lines of `length` characters; omissions are marked, line breaks become spaces.

    Dollar signs are escaped: Matplotlib renders text between two of them as a formula.
    """
    wrapped = textwrap.fill(text, length, max_lines=lines, placeholder=" ...", break_long_words=True)
    return wrapped.replace("$", r"\$")


def choose_columns(differences: np.ndarray, columns: int) -> tuple[list[int], list[int]]:
    """Choose pictures to show: half evenly spaced, half with the largest difference in the worst variant.

    differences: (variants, n), each picture's difference from full precision. Returns both lists, without overlap.
    """
    count = differences.shape[1]
    worst_variant = differences[np.argmax(differences.mean(axis=1))] if len(differences) else np.zeros(count)
    spread = sorted({int(place) for place in np.linspace(0, count - 1, min(columns - columns // 2, count))})
    order = [int(index) for index in np.argsort(-worst_variant, kind="stable") if index not in spread]
    return spread, order[: columns - len(spread)] if len(differences) else []
