"""Grids have a cell per picture and space for every caption."""

import numpy as np

from taqmlx.plots.picture_grid import INK, LINES, MARGIN, WIDTH, draw_grid, wrap_caption

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)


def test_the_grid_has_a_cell_per_picture():
    two, three = (draw_grid(PICTURES[:n], ["a red circle"] * n, columns=2) for n in (4, 5))
    assert two.width == three.width
    assert three.height * 2 == two.height * 3


def test_pictures_are_enlarged_and_otherwise_unchanged():
    grid = np.array(draw_grid(PICTURES, ["a red circle"] * 5, columns=5))
    for index, picture in enumerate(PICTURES):
        left = index * (WIDTH + 2 * MARGIN) + MARGIN
        np.testing.assert_array_equal(grid[MARGIN : MARGIN + WIDTH, left : left + WIDTH][1::3, 1::3], picture)


def test_a_large_picture_keeps_its_size():
    assert draw_grid(np.zeros((1, 300, 300, 3), np.uint8), ["x"], 1).width == 300 + 2 * MARGIN


def test_long_captions_are_wrapped_and_cut():
    lines = wrap_caption("short\n" + "word " * 60, 20)
    assert len(lines) == LINES
    assert all(len(text) <= 20 for text, _ in lines)
    assert [ink == INK for _, ink in lines] == [True] + [False] * (LINES - 1)


def test_longer_captions_get_more_space():
    heights = [draw_grid(PICTURES[:1], [caption], 1).height for caption in ("", "a", "a\nb")]
    assert heights[0] < heights[1] < heights[2]
