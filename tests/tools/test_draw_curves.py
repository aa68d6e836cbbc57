"""The picture of the curves has the measured numbers, and is drawn of those that the documents have."""

import pytest
from PIL import Image

from taqmlx.store.files import read_plain_json
from tools import draw_curves


@pytest.fixture(scope="module")
def numbers():
    return read_plain_json(draw_curves.NUMBERS)


@pytest.fixture(scope="module")
def panels(numbers):
    """The labelled lines of every panel as (x, y), by title and label."""
    return {
        axes.get_title(): {
            line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
            for line in axes.lines
            if not line.get_label().startswith("_")
        }
        for axes in draw_curves.draw_curves(numbers).axes
    }


def test_sets_of_other_guidance_are_no_point_of_a_curve(panels, numbers):
    cells = [cell for cell in numbers["calibration"]["cells"] if cell["guidance"] == "3"]
    for title, varied, fixed in (
        ("Distinct prompts", "prompts", "captured"),
        ("Captured points", "captured", "prompts"),
    ):
        middle = {"prompts": 256, "captured": 1024}[fixed]
        wanted = sorted((cell[varied], cell["distilled"]["median"]["value"]) for cell in cells if cell[fixed] == middle)
        assert panels[title]["distilled"] == wanted
        assert len(wanted) > 2


def test_the_points_of_the_statistics_are_those_with_a_difference(panels, numbers):
    for model, rows in numbers["statistics_points"]["models"].items():
        wanted = [(row["points"], row["a8"]["difference"]["value"]) for row in rows if "a8" in row]
        assert panels["Points of the statistics"][model] == wanted


def test_each_output_of_a_block_has_a_line_by_iterations(panels, numbers):
    for block, found in numbers["iterations"]["blocks"].items():
        for place, stream in enumerate(("image", "text")):
            wanted = sorted((int(count), pair[place]) for count, pair in found.items() if count.isdigit())
            assert panels["Learning of a block"][f"{block}, {stream}"] == wanted


def test_every_interval_is_within_its_axes(numbers):
    for axes in draw_curves.draw_curves(numbers).axes:
        low, high = axes.get_ylim()
        for line in axes.lines:
            assert low <= min(line.get_ydata())
            assert max(line.get_ydata()) <= high


def test_the_picture_is_of_the_numbers_of_the_documents(numbers):
    with Image.open(draw_curves.PICTURE) as picture:
        assert picture.info["Source"] == draw_curves.digest_groups(numbers)
