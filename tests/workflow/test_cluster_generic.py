"""The profile for other schedulers, with three scripts that act as a scheduler on this machine."""

import os
import shutil
from pathlib import Path

import pytest

from taqmlx.runtime import versions
from tests.support.working_copy import WorkingCopy

pytestmark = pytest.mark.slow

SMALL = {"trajectories": 4, "steps": 6, "selected_steps": 3, "checkpoint_every": 2, "prompts": "three.txt"}
PROFILE = ("--profile", "profiles/cluster-generic", "--seconds-between-status-checks", "1")


def make_copy(folder) -> WorkingCopy:
    copy = WorkingCopy(folder, **SMALL)
    (copy.folder / "three.txt").write_text("a red circle\na blue square\n")
    shutil.copytree("tests/local_scheduler", copy.folder / "profiles" / "cluster-generic", dirs_exist_ok=True)
    return copy


@pytest.mark.whole
def test_jobs_run_through_the_scheduler_with_their_resources_and_equal_bytes(tmp_path):
    copy, local = make_copy(tmp_path / "cluster"), make_copy(tmp_path / "local")
    assert local.run("calibration", "--cores", "1").returncode == 0
    run = copy.start("calibration", *PROFILE)
    copy.find_worker("collect_shard").kill()
    assert run.wait(900) == 0, copy.read_said()
    submitted = [line.split() for line in (copy.folder / "submitted.log").read_text().splitlines()]
    rules = [words[3] for words in submitted]
    assert set(rules) == {"encode_prompts", "collect_shard", "gather_calibration", "export_npz"}
    assert rules.count("collect_shard") == 3, "two shards, one of them twice"
    first, *_, again = (int(words[1]) for words in submitted if words[3] == "collect_shard")
    assert again == 2 * first, "more memory at the second attempt"
    assert copy.read_results() == local.read_results()


@pytest.mark.whole
@pytest.mark.skipif(versions.name_kernels() in ("reference", "of the system", "Nehalem"), reason="no other kernels")
def test_the_kernels_of_the_nodes_are_recorded(tmp_path):
    """Nodes of another kind than the machine that plans: of one whose kernels every x86-64 CPU has."""
    copy = make_copy(tmp_path / "cluster")
    submit = copy.folder / "profiles" / "cluster-generic" / "submit"
    submit.write_text(submit.read_text().replace("setsid", "OPENBLAS_CORETYPE=Nehalem setsid"))
    done = copy.run("results/conditioning.safetensors", *PROFILE)
    assert done.returncode == 0, done.stdout
    recorded = [entry[versions.KERNELS] for entry in versions.read_recorded(copy.results)]
    assert recorded == [versions.name_kernels(), "Nehalem"]


def test_the_test_replaces_exactly_the_scripts_of_the_profile():
    names = {path.name for path in Path("tests/local_scheduler").iterdir()}
    assert {path.name for path in Path("profiles/cluster-generic").iterdir()} == {*names, "config.yaml"}
    assert all(os.access(Path("profiles/cluster-generic") / name, os.X_OK) for name in names)
