"""With two groups of blocks the results are those of one, and the rows of one group at a time lie on disk."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.workflow_run import Workflow, read_tree

pytestmark = [pytest.mark.slow, pytest.mark.whole]


class Grouped(NamedTuple):
    """A finished run in two groups that was killed in the second, and the groups with rows on disk at each moment."""

    workflow: Workflow
    seen: list[set[str]]


def find_groups(workflow: Workflow) -> set[str]:
    """The groups with finished or unfinished rows on disk."""
    places = ("block_inputs.zarr/adaround", "scratch/blocks/adaround")
    return {path.parent.name for place in places for path in workflow.results.glob(f"{place}/[0-9]*/[0-9][0-9]")}


def watch(workflow: Workflow, is_over: Callable[[set[str]], bool]) -> list[set[str]]:
    """The groups with rows on disk at each moment, up to the first at which `is_over`."""
    seen = [find_groups(workflow)]
    while not is_over(seen[-1]):
        time.sleep(0.01)
        seen.append(find_groups(workflow))
    return seen


def kill_in_second_group(workflow: Workflow) -> list[set[str]]:
    """Start a run, and kill all of it when the second group has rows."""
    run, deadline = workflow.start("quant_config", cores=2), time.monotonic() + 400
    seen = watch(workflow, lambda groups: "01" in groups or time.monotonic() > deadline)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=600)
    workflow.run("--unlock")
    return seen


@pytest.fixture(scope="module")
def grouped(tmp_path_factory, python) -> Grouped:
    workflow = Workflow(tmp_path_factory.mktemp("two groups"), python)
    workflow.configure(capture_groups=2)
    seen = kill_in_second_group(workflow)
    finished = {path.stem for path in workflow.results.glob("adaround/mm_*.safetensors")}
    assert finished == {"mm_00", "mm_01"}
    over = threading.Event()
    watcher = threading.Thread(target=lambda: seen.extend(watch(workflow, lambda _: over.is_set())))
    watcher.start()
    done = workflow.run("quant_config", "calibration", "activations", cores=2)
    over.set()
    watcher.join()
    assert done.returncode == 0, done.stdout
    return Grouped(workflow, seen)


def name_block(workflow: Workflow, block: str) -> str:
    return str(workflow.results / "adaround" / f"{block}.safetensors")


def test_all_bytes_are_those_of_one_group(grouped, finished):
    found, wanted = (
        {name: content for name, content in read_tree(each.results).items() if not name.startswith("scratch/")}
        for each in (grouped.workflow, finished[0])
    )
    assert found == wanted


def test_the_rows_of_two_groups_never_lie_on_disk(grouped):
    assert {frozenset(groups) for groups in grouped.seen} == {frozenset(), frozenset({"00"}), frozenset({"01"})}
    assert not find_groups(grouped.workflow)


def test_a_finished_run_has_nothing_to_do(grouped):
    assert "Nothing to be done" in grouped.workflow.run("quant_config", "-n").stdout


def test_a_block_that_is_remade_captures_its_group_alone(grouped):
    workflow = grouped.workflow
    after = ["distil", "pack_weights", "quant_config", "write_quant_config"]
    for block, blocks in (("mm_00", 2), ("mm_04", 3)):
        jobs = workflow.list_jobs("quant_config", "--forcerun", name_block(workflow, block))
        assert jobs == sorted([*["capture_group"] * 2, *["optimise_block"] * blocks, *after])


def test_a_block_needs_its_group_and_those_before_it(workflow):
    workflow.configure(capture_groups=2)
    for block, captures, blocks in (("mm_00", 2, 1), ("mm_03", 4, 3)):
        jobs = workflow.list_jobs(name_block(workflow, block))
        assert (jobs.count("capture_group"), jobs.count("optimise_block")) == (captures, blocks)


def test_other_readers_do_not_wait_for_learned_blocks(workflow):
    workflow.configure(capture_groups=2)
    for place, rule in (
        ("sensitivity/mm_03.json", "measure_sensitivity"),
        ("ladder/w4a8_gptq/mm_03.json", "optimise_rung_block"),
    ):
        jobs = workflow.list_jobs(str(workflow.results / place))
        assert (jobs.count("capture_group"), jobs.count(rule), jobs.count("optimise_block")) == (4, 3, 0)
