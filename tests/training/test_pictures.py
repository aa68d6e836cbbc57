"""A picture shows exactly its scene."""

import numpy as np
import pytest

from taqmlx.training.captions import BACKGROUNDS, COLOURS, POSITIONS, SIZES
from taqmlx.training.pictures import RGB
from taqmlx.training.pool import draw_example


def find_pixels(picture: np.ndarray, colour: str) -> np.ndarray:
    """Rows and columns (n, 2) of the pixels that have exactly this colour."""
    return np.argwhere((picture == RGB[colour]).all(axis=-1))


def test_an_index_gives_one_picture():
    np.testing.assert_array_equal(draw_example(1, 7)[1], draw_example(1, 7)[1])
    assert (draw_example(1, 7)[1] != draw_example(2, 7)[1]).any()


def test_pictures_are_64_by_64_bytes():
    picture = draw_example(0, 0)[1]
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("index", range(0, 40, 2))
def test_one_object_is_in_its_cell_with_its_size(index):
    scene, picture = draw_example(0, index)
    pixels = find_pixels(picture, COLOURS[scene["colour_1"]])
    middle = (pixels.min(axis=0) + pixels.max(axis=0)) / 2
    row, column = (int(np.clip(value // 21.4, 0, 2)) for value in middle)
    assert POSITIONS[3 * row + column] == POSITIONS[scene["position"]]
    height = np.ptp(pixels[:, 0]) + 1
    assert (height > 18) == (SIZES[scene["size_1"]] == "large")


@pytest.mark.parametrize("index", range(1, 60, 2))
def test_two_objects_do_not_touch(index):
    scene, picture = draw_example(0, index)
    axis = {1: 1, 2: 0}[scene["layout"]]  # horizontal: columns, vertical: rows
    filled = (picture != RGB[BACKGROUNDS[scene["background"]]]).any(axis=-1).any(axis=1 - axis)
    first, second = np.flatnonzero(filled)[[0, -1]]
    gap = np.flatnonzero(~filled[first:second])
    assert len(gap) >= 2
    colour_1, colour_2 = (find_pixels(picture, COLOURS[scene[f"colour_{slot}"]]) for slot in (1, 2))
    if scene["colour_1"] != scene["colour_2"]:
        assert colour_1[:, axis].max() < colour_2[:, axis].min()
