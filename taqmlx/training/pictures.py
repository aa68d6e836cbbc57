"""Scenes drawn as 64 x 64 pictures: flat shapes on a flat background, antialiased by supersampling."""

import numpy as np
from PIL import Image, ImageDraw

from taqmlx.training.captions import ABSENT, BACKGROUNDS, COLOURS, LAYOUTS, SHAPES, SIZES

PICTURE_SIZE = 64  # pixels
SUPERSAMPLING = 4
Colour = tuple[int, int, int]
RGB = {
    "red": (220, 40, 40), "orange": (245, 140, 20), "yellow": (250, 220, 50), "green": (40, 160, 70),
    "blue": (40, 80, 220), "purple": (140, 50, 170), "white": (255, 255, 255), "black": (0, 0, 0),
    "gray": (128, 128, 128), "pink": (250, 190, 205),
}  # fmt: skip
RADII = {"small": (7.0, 8.5), "large": (12.0, 14.0)}  # pixels, half the height of the shape
CENTRES = (16.0, 32.0, 48.0)  # pixels; coordinates of the three rows and columns
JITTER = {"single": (2.0, 2.0), "horizontal": (1.0, 4.0), "vertical": (4.0, 1.0)}  # pixels, along x and y


def draw_scene(rng: np.random.Generator, scene: dict[str, int]) -> np.ndarray:
    """Draw `scene` as (64, 64, 3) uint8; `rng` gives the exact positions and radii."""
    edge = PICTURE_SIZE * SUPERSAMPLING
    picture = Image.new("RGB", (edge, edge), RGB[BACKGROUNDS[scene["background"]]])
    draw = ImageDraw.Draw(picture)
    for slot, (x, y) in enumerate(_place_objects(rng, scene), start=1):
        radius = rng.uniform(*RADII[SIZES[scene[f"size_{slot}"]]])
        colour = RGB[COLOURS[scene[f"colour_{slot}"]]]
        background = RGB[BACKGROUNDS[scene["background"]]]
        shape = SHAPES[scene[f"shape_{slot}"]]
        DRAWERS[shape](draw, *(SUPERSAMPLING * value for value in (x, y, radius)), colour, background)
    return np.asarray(picture.reduce(SUPERSAMPLING))


def _place_objects(rng: np.random.Generator, scene: dict[str, int]) -> list[tuple[float, float]]:
    layout = LAYOUTS[scene["layout"]]
    if scene["position"] == ABSENT:
        cells = {"horizontal": ((0, 1), (2, 1)), "vertical": ((1, 0), (1, 2))}[layout]
    else:
        cells = ((scene["position"] % 3, scene["position"] // 3),)
    return [
        tuple(CENTRES[k] + rng.uniform(-jitter, jitter) for k, jitter in zip(cell, JITTER[layout], strict=True))
        for cell in cells
    ]


def _draw_circle(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour, background: Colour
) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _draw_ring(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour, background: Colour
) -> None:
    _draw_circle(draw, x, y, radius, colour, background)
    _draw_circle(draw, x, y, 0.55 * radius, background, background)


def _draw_square(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour, background: Colour
) -> None:
    side = 0.88 * radius
    draw.rectangle((x - side, y - side, x + side, y + side), fill=colour)


def _draw_triangle(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour, background: Colour
) -> None:
    draw.polygon(((x, y - radius), (x - radius, y + 0.8 * radius), (x + radius, y + 0.8 * radius)), fill=colour)


def _draw_cross(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour, background: Colour
) -> None:
    arm = 0.34 * radius
    draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
    draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)


DRAWERS = {
    "circle": _draw_circle, "square": _draw_square, "triangle": _draw_triangle,
    "cross": _draw_cross, "ring": _draw_ring,
}  # fmt: skip
