"""After a run of all targets, every file has a checksum, and damage is found, named and repaired."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.every_file import (
    flip_every_kind,
    flipped,
    list_kinds,
    list_without_checksum,
    read_cure,
    read_everything,
    read_target,
)
from tools.faults.undisturbed import Job, Run, delete
from tools.faults.working_copy import EVERYTHING, WorkingCopy, make_reference

# Some 520 jobs: `make everything`
pytestmark = pytest.mark.skipif(not os.environ.get("EVERYTHING_TESTS"), reason="a run of everything; make everything")

SMALL = {
    "trajectories": 3,
    "steps": 6,
    "selected_steps": 3,
    "checkpoint_every": 3,
    "statistics_shards": 1,
    "capture_points": 6,
    "capture_shards": 1,
    "adaround_iterations": 2,
    "adaround_batch": 4,
    "search_points": 6,
    "search_probes": 2,
    "distil_iterations": 2,
    "distil_batch": 4,
    "frontier_sizes": [4.5, 5],
    "frontier_pictures": 4,
    "ladder_pictures": 2,
    "ladder_steps": 2,
    "evaluation_pictures": 4,
    "evaluation_steps": 2,
    "evaluation_shards": 1,
}
# One file of what each kind of voucher is for; what makes them again takes no more than itself.
MENDED = (
    "DiT_cali_data.npz",
    "ablation.md.sha256",
    "activations/ranges.md",
    "evaluation/images/w4a8/00/*.png",
    "evaluation/sizes/w4a8.json",
    "exports/images/0001.png",
    "ladder/w4a8_rtn_sigma/mm_03.safetensors",
    "params/ablation/score.json",
    "plots/error_growth.svg",
    "trajectories.zarr/zarr.json",
    "weights_ladder.md",
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> WorkingCopy:
    """Everything, made small; every test leaves it as it was."""
    return make_reference(tmp_path_factory.mktemp("everything") / "made", EVERYTHING, **SMALL)


def list_jobs(copy: WorkingCopy) -> Run:
    """The jobs that made the results, with their outputs by the names below these."""
    places = [(job.rule, tuple(name.removeprefix("results/") for name in job.outputs)) for job in copy.list_jobs()]
    return Run(copy.results, [Job(rule, (), outputs, "", ()) for rule, outputs in places])


def list_rules(path: Path) -> list[str]:
    """The rules of a file that have outputs."""
    parts = re.split(r"^(?:use rule \w+ as|rule) (\w+)(?: with)?:\n", path.read_text(), flags=re.M)
    return [name for name, text in zip(parts[1::2], parts[2::2], strict=True) if "    output:\n" in text]


def verify(copy: WorkingCopy) -> subprocess.CompletedProcess:
    """The command that a user gives."""
    command = [sys.executable, "-m", "workflow_scripts.tools.verify_dataset", "--replay", "1"]
    return subprocess.run([*command, "--results", str(copy.results)], capture_output=True, text=True)


def test_every_rule_that_makes_a_file_has_run(reference):
    """A rule that `EVERYTHING` leaves out would not be looked at below."""
    rules = [rule for path in Path("rules").glob("*.smk") if path.stem != "train" for rule in list_rules(path)]
    assert set(rules) - {job.rule for job in reference.list_jobs()} == {
        "fetch_weights"
    }  # the model came with the program


def test_every_file_on_the_disk_has_a_checksum(reference):
    assert read_everything(reference.results)[0] == []
    assert list_without_checksum(reference.results) == []
    assert len(list_kinds(reference.results)) > 250


def test_a_flipped_bit_in_any_kind_of_file_is_found_and_named_with_its_target(reference):
    run = list_jobs(reference)

    def judge(path: Path, faults: list[str]) -> str:
        name = path.relative_to(run.results).as_posix()
        maker = run.find_producer(name)
        wanted = {run.results / place for place in maker.outputs} if maker else {path}
        found = {target for fault in faults if (target := read_target(fault, path))}
        return "" if found & wanted else f"{maker and maker.rule} is not named: {faults}"

    assert flip_every_kind(reference.results, 2, judge) == {}


def test_the_named_cure_restores_the_same_bytes(reference):
    whole, rng = reference.read_tree(), random.Random(0)
    damaged = [sorted(reference.results.glob(name))[0] for name in MENDED]
    for path in damaged:
        content = path.read_bytes()
        with flipped(path, rng.randrange(8 * len(content))):
            changed = path.read_bytes()
        path.write_bytes(changed)
    done = verify(reference)
    assert done.returncode == 1, done.stdout
    lines = [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("every file: ")]
    cures = [cure for cure in map(read_cure, lines) if cure]
    assert [path for path in damaged if not any(str(path) in line for line in lines)] == []
    for path in {path for gone, _ in cures for path in gone}:
        delete(path)
    again = reference.run(*{str(target.relative_to(reference.folder)) for _, target in cures})
    assert again.returncode == 0, again.stdout
    assert reference.read_tree() == whole
    done = verify(reference)
    assert done.returncode == 0, done.stderr
