"""Plots are embedded with captions, and unknown plots are rejected."""

import base64

import pytest

from taqmlx.report.figures import embed_plot, embed_plots
from taqmlx.store.errors import UserError
from tests.support.report_study import draw_plot


def test_a_plot_is_a_data_address_with_its_size(tmp_path):
    path = tmp_path / "error_growth.png"
    draw_plot(path, 40, 30)
    figure = embed_plot(path)
    assert (figure.section, figure.width, figure.height) == ("growth", 40, 30)
    assert base64.b64decode(figure.source.removeprefix("data:image/png;base64,")) == path.read_bytes()


def test_snapshots_are_named_by_their_step(tmp_path):
    paths = [tmp_path / f"absmax_step_{step}.png" for step in ("000", "025")]
    for path in paths:
        draw_plot(path, 4, 3)
    titles = [figure.title for figure in embed_plots(paths)["snapshots"]]
    assert titles == ["Absmax at step 0", "Absmax at step 25"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("unheard_of.png", b"", "is a plot without a caption"),
        ("error_growth.png", b"<svg/>", "is not a readable picture"),
        ("error_growth.png", None, "is missing"),
    ],
)
def test_an_unknown_plot_is_rejected_in_one_line(tmp_path, name, data, reason):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=reason):
        embed_plot(path)


def test_a_plot_with_another_content_is_rejected(tmp_path):
    draw_plot(tmp_path / "size_quality.png", 4, 3)
    (tmp_path / "size_quality.png").rename(tmp_path / "error_growth.png")
    with pytest.raises(UserError, match="is a picture of size_quality, not error_growth; delete it"):
        embed_plot(tmp_path / "error_growth.png")
