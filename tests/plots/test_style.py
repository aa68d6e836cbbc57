"""Files of equal figures are equal."""

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from taqmlx.plots.style import STYLE, create_figure, cycle_styles, save_figure, styled, thin


@styled
def draw_example():
    figure = create_figure("an example", 2, 3)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label="line")
    axes.pcolormesh(np.arange(4).reshape(2, 2), rasterized=True)
    axes.vlines([0.2, 0.4], 0, 1, rasterized=True)
    figure.legend(loc="outside lower center")
    return figure


def test_a_rerun_gives_the_same_bytes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        save_figure(draw_example(), folder / "figure")
    for name in ("figure.png", "figure.svg"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_files_contain_neither_dates_nor_versions(tmp_path):
    save_figure(draw_example(), tmp_path / "figure")
    assert not {"Software", "Creation Time"} & Image.open(tmp_path / "figure.png").info.keys()
    text = (tmp_path / "figure.svg").read_text()
    assert "dc:date" not in text
    assert mpl.__version__ not in text


def test_drawing_does_not_change_the_state_of_the_process():
    before = dict(mpl.rcParams)
    draw_example()
    assert dict(mpl.rcParams) == before
    assert mpl.rcParams["font.size"] != STYLE["font.size"]


def test_32_lines_can_be_told_apart():
    assert len({tuple(style.items()) for style in cycle_styles(32)}) == 32


@pytest.mark.parametrize("count", [1, 5, 12, 13, 24, 100])
def test_labels_are_thinned_evenly_and_keep_the_first(count):
    places = thin(count)
    assert places[0] == 0
    assert len(places) <= 12
    assert len(set(np.diff(places))) <= 1
