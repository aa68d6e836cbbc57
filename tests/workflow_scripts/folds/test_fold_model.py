"""The search of folds as the rule runs it: equal bytes after interruptions, and what of its result is made again."""

import logging
from argparse import Namespace
from pathlib import Path

import pytest

from taqmlx.store.folds_file import read_folds
from tests.support.interruption import interrupt_after_saves
from tests.workflow_scripts.blocks.test_measure_costs import write_guided_calibration, write_parameters
from workflow_scripts.folds import fold_model

# 12 points of three prompts, one of them held out, and few inputs: a search takes time.
SETTINGS = {
    "folds": [{"layers": "mm_0[02].*fc1", "kind": "scale"}, {"layers": "mm_01.text.mlp.fc2", "kind": "permutation"}],
    "fold_points": 12,
    "held_out": 0.34,
}
BLOCKS = 5


def search(folder: Path, calibration: Path, **changes) -> Path:
    """Run the entry in `folder`; its result."""
    params, out = (
        write_parameters(folder / "params.json", "fold_model", SETTINGS | changes),
        folder / "folds.safetensors",
    )
    scratch = folder / "scratch" / "fold_model"
    fold_model.main(Namespace(params=params, calibration=calibration, scratch=scratch, out=out))
    assert not scratch.exists()
    return out


@pytest.fixture(scope="module")
def calibration(tmp_path_factory) -> Path:
    """A calibration set; not to be changed."""
    return write_guided_calibration(tmp_path_factory.mktemp("sources") / "calibration.zarr")


@pytest.fixture(scope="module")
def undisturbed(calibration, tmp_path_factory) -> bytes:
    """The bytes of an undisturbed search, which keeps folds of several blocks."""
    path = search(tmp_path_factory.mktemp("undisturbed"), calibration)
    assert len({fold.site.partition(".")[0] for fold in read_folds(path).folds}) > 1
    return path.read_bytes()


@pytest.mark.parametrize("saves", [1, BLOCKS - 1])
def test_an_interrupted_search_resumes_after_its_last_block_to_the_same_bytes(
    calibration, undisturbed, saves, tmp_path, monkeypatch, caplog
):
    interrupt_after_saves(monkeypatch, saves, lambda: search(tmp_path, calibration))
    assert not (tmp_path / "folds.safetensors").exists()
    with caplog.at_level(logging.INFO, "taqmlx"):
        path = search(tmp_path, calibration)
    assert f"resuming after {saves} blocks" in caplog.text
    assert path.read_bytes() == undisturbed


def test_a_checkpoint_of_other_parameters_is_named_and_ignored(calibration, undisturbed, tmp_path, monkeypatch, caplog):
    interrupt_after_saves(monkeypatch, 1, lambda: search(tmp_path, calibration, seed=1))
    with caplog.at_level(logging.INFO, "taqmlx"):
        path = search(tmp_path, calibration)
    assert "was made with other parameters or inputs; it is ignored, and the search starts over" in caplog.text
    assert path.read_bytes() == undisturbed


def test_a_finished_result_is_kept_and_a_damaged_one_made_again(calibration, undisturbed, tmp_path, caplog):
    path = tmp_path / "folds.safetensors"
    path.write_bytes(undisturbed)
    with caplog.at_level(logging.INFO, "taqmlx"):
        search(tmp_path, calibration)
        assert "is already finished" in caplog.text
        path.write_bytes(undisturbed[:-1] + bytes([undisturbed[-1] ^ 1]))
        search(tmp_path, calibration)
    assert "it is replaced" in caplog.text
    assert path.read_bytes() == undisturbed


def test_a_result_of_other_parameters_is_replaced(calibration, undisturbed, tmp_path, caplog):
    (tmp_path / "folds.safetensors").write_bytes(undisturbed)
    with caplog.at_level(logging.INFO, "taqmlx"):
        path = search(tmp_path, calibration, folds=SETTINGS["folds"][1:])
    assert "was made with other parameters (folds: " in caplog.text
    assert {fold.kind for fold in read_folds(path).folds} <= {"permutation"}
