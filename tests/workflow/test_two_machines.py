"""Shards and blocks made on two machines, here two copies of the project, and collected."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.warm import start_warm_python
from tests.support.workflow_run import FOLDS, WEIGHTS
from tests.support.working_copy import WorkingCopy

pytestmark = [pytest.mark.slow, pytest.mark.whole]

SMALL = {"trajectories": 4, "steps": 6, "selected_steps": 3, "checkpoint_every": 2, "prompts": "two.txt"}
SMALL |= {"engine": "rtn", "capture_points": 12, "capture_shards": 1, "prompts_per_shard": 1}
SMALL |= {"bits_per_weight": None, "distil": "none", "folds": FOLDS, "weights": WEIGHTS}
FIRST = ("results/conditioning.safetensors", "results/trajectories.zarr/zarr.json", "results/params/collect_shard.json")
MINE, OTHERS = "results/trajectories.zarr/000", "results/trajectories.zarr/001"


@pytest.fixture(scope="module")
def make_copy() -> Iterator[Callable[[Path], WorkingCopy]]:
    """make_copy(folder): a copy of the project; all have one server of processes, as their code is the same."""
    with start_warm_python(Path(), in_copies=True) as python:

        def make(folder: Path) -> WorkingCopy:
            copy = WorkingCopy(folder, python=python, **SMALL)
            (copy.folder / "two.txt").write_text("a red circle\na blue square\n")
            return copy

        yield make


def run(copy, *words):
    done = copy.run(*words, "--cores", "1")
    assert done.returncode == 0, done.stdout
    return done.stdout


def bring(source, target, *names):
    """Copy what is named as `rsync -r` and `scp -r` do: what arrives is new."""
    for name in names:
        (target.folder / name).parent.mkdir(exist_ok=True)
        if (source.folder / name).is_dir():
            shutil.copytree(source.folder / name, target.folder / name, copy_function=shutil.copy)
        else:
            shutil.copy(source.folder / name, target.folder / name)


@pytest.fixture(scope="module")
def machines(tmp_path_factory, make_copy):
    """Two machines: one made the conditioning and its own shard, the other took the former and made the rest."""
    here, there = (make_copy(tmp_path_factory.mktemp(name) / "copy") for name in ("here", "there"))
    run(here, *FIRST)
    bring(here, there, "results")
    assert there.list_planned(OTHERS) == ["collect_shard"]
    run(there, OTHERS)
    run(here, MINE)
    return here, there


@pytest.fixture
def duplicate(machines, make_copy, tmp_path):
    """duplicate(name): a copy of the first machine, as it is before the other's shard arrives."""

    def make(name):
        copy = make_copy(tmp_path / name)
        for part in ("results", ".snakemake"):
            shutil.copytree(machines[0].folder / part, copy.folder / part)
        return copy

    return make


@pytest.fixture
def here(duplicate):
    """The first machine."""
    return duplicate("here")


def test_copied_work_is_accepted_and_the_result_equals_that_of_one_machine(machines, here, duplicate):
    there = machines[1]
    bring(there, here, OTHERS)
    assert "collect_shard" not in here.list_planned("quant_config")
    run(here, "verify_trajectories", "results/calibration.zarr")
    # The blocks likewise: each machine captures what they read from the same calibration set.
    bring(here, there, "results/calibration.zarr")
    run(there, "results/adaround/mm_03.safetensors")
    bring(there, here, *(f"results/adaround/mm_03{end}" for end in (".safetensors", ".json", ".report.json")))
    assert "adaround/mm_03.safetensors is already finished" in run(here, "adaround")
    alone = duplicate("alone")
    run(alone, "adaround")
    assert here.read_results() == alone.read_results()


def test_a_shard_damaged_on_the_way_is_named_and_not_used(machines, here):
    bring(machines[1], here, OTHERS)
    chunk = min((here.folder / OTHERS / "xs").glob("c.*"))
    chunk.write_bytes(chunk.read_bytes()[:-7])
    done = here.run("results/calibration.zarr", "--cores", "1")
    assert done.returncode == 1
    assert f"{OTHERS}/xs" in done.stdout
    assert not (here.results / "calibration.zarr").exists()


def test_a_shard_of_other_parameters_is_rejected_before_any_job(here, make_copy, tmp_path):
    other = make_copy(tmp_path / "other")
    other.configure(**SMALL | {"cfg_scale": 2.0})
    run(other, OTHERS)
    bring(other, here, OTHERS)
    done = here.run("quant_config", "--cores", "1")
    assert done.returncode == 1
    assert f"{OTHERS} was made with other parameters (cfg_scale: 2.0 there, 3.0 in the" in done.stdout
    assert not (here.results / "calibration.zarr").exists()
