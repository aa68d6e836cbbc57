"""The command that plots the channel ranges before and after folds."""

from argparse import Namespace

import pytest

from taqmlx.planning import configuration, plan
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.folds_file import write_folds
from tests.plots.synthetic import build_folds
from workflow_scripts.plots import plot_folds


def run(folder, folds):
    config = configuration.complete({"folds": [{"layers": "*", "kind": "scale"}]}, configuration.load_schema())
    parameters = plan.select_parameters("fold_model", config, [])
    write_json(folder / "params.json", parameters)
    write_folds(folder / "folds.safetensors", folds, parameters, {"model": {}})
    plot_folds.main(Namespace(params=folder / "params.json", folds=folder / "folds.safetensors", out=folder / "plots"))
    return {path.name for path in (folder / "plots").iterdir()}


@pytest.mark.parametrize("kept", [True, False])
def test_both_figures_are_written_in_both_formats(tmp_path, kept):
    folds, _ = build_folds(plan.MODEL_BLOCKS["embedded"][0])
    names = {f"{name}{end}" for name in ("fold_ranges", "fold_spread") for end in (".png", ".svg", ".sha256")}
    assert run(tmp_path, folds if kept else []) == names


def test_missing_folds_are_named(tmp_path):
    run(tmp_path, [])
    (tmp_path / "folds.safetensors").unlink()
    arguments = Namespace(params=tmp_path / "params.json", folds=tmp_path / "folds.safetensors", out=tmp_path)
    with pytest.raises(UserError, match=r"folds\.safetensors is missing"):
        plot_folds.main(arguments)
