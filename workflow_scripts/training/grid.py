"""Pictures with their prompts under them, as one picture."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ZOOM, MARGIN = 3, 12  # of the pictures; pixels around them
LINES, LINE_HEIGHT, LINE_LENGTH = 4, 17, 27  # room for the prompt: lines, pixels, characters


def draw_grid(pictures: np.ndarray, prompts: list[str], columns: int) -> Image.Image:
    """A grid of pictures (n, h, w, 3) uint8, each over its prompt."""
    height, width = (ZOOM * edge for edge in pictures.shape[1:3])
    cell_width, cell_height = width + 2 * MARGIN, height + 2 * MARGIN + LINES * LINE_HEIGHT
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * cell_width, rows * cell_height), (246, 246, 246))
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(14)
    for index, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        x = index % columns * cell_width + MARGIN
        y = index // columns * cell_height + MARGIN
        grid.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (x, y))
        for line, text in enumerate(textwrap.wrap(prompt, LINE_LENGTH)[:LINES]):
            draw.text((x, y + height + 4 + line * LINE_HEIGHT), text, fill=(30, 30, 30), font=font)
    return grid
