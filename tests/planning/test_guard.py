"""The checks that can stop a run before its first job."""

import os
from pathlib import Path

import pytest

from taqmlx.planning import configuration, guard
from taqmlx.store.files import write_json

NOW = 1_700_000_000
SCHEMA = configuration.load_schema()


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The default configuration, with results in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    return configuration.complete({}, SCHEMA) | {"results_dir": "results"}


def test_empty_results_stop_nothing(config):
    assert list(guard.find_conflicts(config, ["a red circle"])) == []
    assert list(guard.find_wrong_dates(config, NOW)) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("trajectories.zarr/000/zarr.json", "results/trajectories.zarr/000 has a damaged seal"),
        ("adaround/mm_00.json", "results/adaround/mm_00.json"),
    ],
)
def test_finished_work_with_a_damaged_seal_is_named(config, place, line):
    path = Path("results") / place
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    (found,) = guard.find_conflicts(config, ["a red circle"])
    assert found.startswith(line)


def test_other_weights_are_named_with_the_cure(config, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"x")
    write_json(tmp_path / "results" / "weights.json", {"glimpses": {"a.safetensors": "0"}})
    changed = config | {"model": "sd3-medium", "weights_from": str(tmp_path)}
    (line,) = guard.find_other_weights(changed)
    assert line.startswith(f"weights_from: {tmp_path / 'a.safetensors'} is not the file that")
    assert line.endswith("; choose another results_dir for these weights")
    assert list(guard.find_other_weights(config)) == []  # the embedded model's come with the project


def test_results_dated_in_the_future_are_named(config, tmp_path):
    (tmp_path / "results" / "fid.json").touch()
    os.utime(tmp_path / "results" / "fid.json", (NOW + 3600, NOW + 3600))
    (line,) = guard.find_wrong_dates(config, NOW)
    assert "results/fid.json is dated " in line
