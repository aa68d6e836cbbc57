"""Grid of captioned pictures, rendered as one picture."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, GAP = 192, 12, 4  # approximate width after enlarging; pixels around and below pictures
LINE_HEIGHT, LINE_LENGTH, LINES = 17, 27, 5  # captions: pixels per line, characters per line, largest number of lines
PAPER, FRAME, INK, FAINT_INK = (246, 246, 246), (222, 222, 222), (30, 30, 30), (110, 110, 110)


def draw_grid(pictures: np.ndarray, captions: list[str], columns: int) -> Image.Image:
    """Draw a grid of pictures (n, h, w, 3) uint8 with captions below; caption lines after the first are fainter."""
    zoom = max(1, WIDTH // pictures.shape[2])
    height, width = (zoom * edge for edge in pictures.shape[1:3])
    wrapped = [wrap_caption(caption, LINE_LENGTH * width // WIDTH) for caption in captions]
    cell_width, cell_height = width + 2 * MARGIN, height + 2 * MARGIN + GAP + LINE_HEIGHT * max(map(len, wrapped))
    grid = Image.new("RGB", (columns * cell_width, -(-len(pictures) // columns) * cell_height), PAPER)
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(14)
    for index, (picture, lines) in enumerate(zip(pictures, wrapped, strict=True)):
        x, y = index % columns * cell_width + MARGIN, index // columns * cell_height + MARGIN
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=FRAME)
        grid.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (x, y))
        for line, (text, ink) in enumerate(lines):
            draw.text((x, y + height + GAP + line * LINE_HEIGHT), text, fill=ink, font=font)
    return grid


def wrap_caption(caption: str, length: int) -> list[tuple[str, tuple[int, int, int]]]:
    """Wrap a caption to `length` characters and return its first lines with their colour."""
    lines = [
        (text, FAINT_INK if place else INK)
        for place, line in enumerate(caption.splitlines())
        for text in textwrap.wrap(line, length)
    ]
    return lines[:LINES]
