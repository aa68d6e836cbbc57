"""Exports and imports as a user runs them."""

import re
import shutil
import subprocess

import pytest

from tests.support.workflow_run import PROMPTS, Workflow
from tools.commands import find_module

pytestmark = pytest.mark.slow

EXPORTS = ["decode_latents", "export_latents", "export_manifest", "export_samples", "exports"]


def call(python: str, entry: str, *arguments) -> str:
    command = [python, "-m", find_module(entry), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_exports_are_made_from_the_trajectories_and_verified(copy):
    assert copy.list_jobs("exports") == EXPORTS
    assert copy.run("exports", "manifest").returncode == 0
    done = copy.run("verify_dataset")
    assert done.returncode == 0, done.stdout
    assert re.findall(r"^\| (.*?) +\| not made", done.stdout, re.M) == ["weights for mflux"]
    next((copy.results / "exports" / "samples").glob("*.npz")).unlink()
    assert "exported samples: " in copy.run("verify_dataset").stdout


def test_an_imported_dataset_replaces_the_recorded_one(copy, python, tmp_path):
    assert copy.run("exports").returncode == 0
    dataset = shutil.copytree(copy.results / "exports", tmp_path / "calibration_data")
    target = Workflow(tmp_path, python)
    store = target.results / "trajectories.zarr"
    needed = [target.results / "params/collect_shard.json", target.results / "conditioning.safetensors"]
    assert target.run(*map(str, needed), str(store / "zarr.json")).returncode == 0
    call(python, "import_samples", dataset, "--params", needed[0], "--conditioning", needed[1], "--trajectories", store)
    assert "collect_shard" not in target.list_jobs("calibration")
    done = target.run("calibration")
    assert done.returncode == 0, done.stdout
    said = call(python, "verify_dataset", "--results", target.results, "--replay", "42")
    assert "| replay                | ok" in said
    assert len(PROMPTS) == len(list(store.glob("[0-9]*")))
