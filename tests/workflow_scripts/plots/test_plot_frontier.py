"""The command that plots quality against size."""

import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from tests.plots.synthetic import build_frontier
from workflow_scripts.plots import plot_frontier


def run(folder, **changes):
    write_json(folder / "frontier.json", build_frontier() | changes)
    words = ["--frontier", str(folder / "frontier.json"), "--size", "4.5", "--out", str(folder / "plots")]
    plot_frontier.main(plot_frontier.build_arguments().parse_args(words))


def test_the_figure_is_written_in_both_formats(tmp_path):
    run(tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        f"frontier{suffix}" for suffix in (".png", ".svg", ".sha256")
    }


def test_a_frontier_of_another_version_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"frontier\.json"):
        run(tmp_path, version=0)
