"""The life cycle of resumable work: whatever happens on the way, its result is that of an undisturbed job, or none."""

import errno
import logging
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from taqmlx.store.block_file import holds_block, write_block
from taqmlx.store.block_report import name_report, write_report
from taqmlx.store.errors import UserError
from taqmlx.store.seal import read_group_seal
from taqmlx.store.sealed_job import SealedJob
from tests.support import counting_job
from tests.support.counting_job import INPUTS, PARAMETERS, STEPS, count, make_job, work
from tools.small_results.shards import hash_tree


@pytest.fixture(scope="module")
def wanted(tmp_path_factory) -> dict[str, str]:
    """The digests of an undisturbed job's result."""
    job = make_job(tmp_path_factory.mktemp("undisturbed"))
    assert count(job) == list(range(STEPS))
    return hash_tree(job.out)


@pytest.fixture
def said(caplog) -> pytest.LogCaptureFixture:
    """What is logged: `said.messages`."""
    caplog.set_level(logging.INFO, "taqmlx")
    return caplog


@pytest.fixture
def interrupted(tmp_path) -> SealedJob:
    """A job interrupted after its checkpoint of two steps."""
    job = make_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        count(job, stop_at=3)
    return job


def test_a_job_publishes_its_sealed_result_and_leaves_no_scratch(tmp_path):
    job = make_job(tmp_path)
    count(job)
    seal = read_group_seal(job.out)
    assert (seal["parameters"], seal["inputs"], seal["fingerprint"]) == (PARAMETERS, INPUTS, job.fingerprint)
    assert [path.name for path in job.scratch.parent.iterdir()] == ["counts.lock"]


# Finished work


def test_a_finished_result_is_kept(tmp_path, said):
    job = make_job(tmp_path)
    count(job)
    before = {path: path.stat().st_mtime_ns for path in job.out.rglob("*")}
    job.scratch.mkdir()  # as one killed before it removed that
    assert count(job) == []
    assert said.messages == [f"{job.out} is already finished"]
    assert {path: path.stat().st_mtime_ns for path in job.out.rglob("*")} == before
    assert not job.scratch.exists()


def test_a_result_with_other_parameters_is_rejected_and_stays(tmp_path, wanted):
    count(make_job(tmp_path))
    job = make_job(tmp_path, steps=6)
    with pytest.raises(UserError, match=r"counts was made with other parameters \(steps: 5 there, 6 in"):
        count(job)
    assert hash_tree(job.out) == wanted


def test_a_foreign_file_at_the_path_of_the_result_is_named(tmp_path):
    job = make_job(tmp_path)
    (job.out / "counts").mkdir(parents=True)
    with pytest.raises(UserError, match="counts is in the way: it holds no finished work"):
        count(job)


@pytest.fixture
def block(tmp_path) -> SealedJob:
    """A job with a block's file and its report as its result, finished."""
    job = SealedJob(tmp_path / "made" / "mm_00.safetensors", tmp_path / "scratch" / "mm_00", PARAMETERS, INPUTS)
    write_report(name_report(job.out), "mm_00", {})
    write_block(job.out, {}, {}, np.ones(1, np.float32), job.parameters, job.inputs)
    return job


def test_a_finished_block_is_recognised(block, said):
    assert block.is_finished(holds_block)
    assert block.is_finished(holds_block, replace=True)
    assert said.messages == 2 * [f"{block.out} is already finished"]


@pytest.mark.parametrize("suffix", [".safetensors", ".json", ".report.json"])
def test_a_block_with_a_missing_file_is_not_finished(block, said, suffix):
    block.out.with_suffix(suffix).unlink()
    assert not block.is_finished(holds_block)
    assert said.messages == []


def test_a_damaged_block_is_named_and_replaced_only_on_request(block, said):
    content = bytearray(block.out.read_bytes())
    content[-1] ^= 1
    block.out.write_bytes(content)
    with pytest.raises(UserError, match=r"mm_00.safetensors does not match \S+mm_00.json; delete both"):
        block.is_finished(holds_block)
    assert not block.is_finished(holds_block, replace=True)
    assert said.messages == [f"{block.out} does not match {block.out.with_suffix('.json')}; it is replaced"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": PARAMETERS | {"steps": 6}}, r"other parameters \(steps: 5 there, 6 in [^)]*\)"),
        ({"inputs": {"model": {"a.safetensors": "01"}}}, r"other inputs \(model\.[^)]*\)"),
    ],
)
def test_a_block_with_other_parameters_or_inputs_is_replaced_only_on_request(block, said, changes, words):
    job = SealedJob(
        **{"out": block.out, "scratch": block.scratch, "parameters": PARAMETERS, "inputs": INPUTS} | changes
    )
    with pytest.raises(UserError, match=f"mm_00.safetensors was made with {words}; choose"):
        job.is_finished(holds_block)
    assert said.messages == []
    assert not job.is_finished(holds_block, replace=True)
    assert len(said.messages) == 1
    assert re.fullmatch(rf"{block.out} was made with {words}; it is replaced", said.messages[0])


# Interrupted work


def test_a_job_resumes_from_its_checkpoint(interrupted, wanted):
    assert count(interrupted) == [2, 3, 4]
    assert hash_tree(interrupted.out) == wanted


@pytest.mark.parametrize("moments", [12, pytest.param(sys.maxsize, marks=pytest.mark.slow, id="all")])
def test_a_job_killed_before_any_change_of_a_file_ends_with_the_same_bytes(tmp_path, moments):
    command = [sys.executable, "-m", counting_job.__name__, str(tmp_path), str(moments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_checkpoint_with_other_parameters_is_named_and_ignored(interrupted, tmp_path, said):
    job = make_job(tmp_path, seed=1)
    assert count(job) == list(range(STEPS))
    assert said.messages == [f"{job.learning} was made with other parameters or inputs; counting starts over"]
    assert read_group_seal(job.out)["parameters"]["seed"] == 1


def test_a_damaged_checkpoint_is_named_and_ignored(interrupted, wanted, said):
    interrupted.learning.write_bytes(interrupted.learning.read_bytes()[:-1])
    assert count(interrupted) == list(range(STEPS))
    assert len(said.messages) == 1
    assert re.fullmatch(rf"{interrupted.learning} is damaged .*; counting starts over", said.messages[0])
    assert hash_tree(interrupted.out) == wanted


def test_an_error_keeps_the_checkpoint(interrupted):
    with pytest.raises(ValueError, match="a value"), interrupted.hold():
        raise ValueError("a value")
    assert count(interrupted) == [2, 3, 4]


@pytest.mark.parametrize("name", ["counts/c.0.0.123.partial", ".0a1b2c3d.partial.json"], ids=["a chunk", "the seal"])
def test_leftover_partial_files_are_removed(interrupted, wanted, name):
    (interrupted.group / name).write_bytes(b"torn")
    count(interrupted)
    assert hash_tree(interrupted.out) == wanted


def test_damage_between_writing_and_sealing_is_found_and_nothing_is_published(interrupted):
    chunk = interrupted.group / "counts" / "c.0.0"
    chunk.write_bytes((interrupted.group / "counts" / "c.1.0").read_bytes())
    with pytest.raises(UserError, match=r"counts/c.0.0 is not what was written"):
        count(interrupted)
    assert not interrupted.out.exists()
    assert interrupted.learning.exists()


def test_a_second_worker_waits_for_the_first_and_finds_its_result(tmp_path, said, wanted):
    job, done = make_job(tmp_path), []
    second = threading.Thread(target=lambda: done.append(count(make_job(tmp_path))))
    with job.hold():
        second.start()
        while not said.messages:
            second.join(0.01)
        assert work(job) == list(range(STEPS))
        assert done == []
    second.join()
    assert done == [[]]
    assert said.messages == [
        f"{job.scratch}.lock is held by another process; waiting for it to end",
        f"{job.out} is already finished",
    ]
    assert hash_tree(job.out) == wanted


# Writes: two of the empty group, one of each step, two checkpoints and the seal.
WRITES = 2 + STEPS + 2 + 1


@pytest.mark.parametrize("fitting", range(WRITES))
def test_a_full_disk_is_named_and_the_next_run_finishes(tmp_path, wanted, monkeypatch, fitting):
    flush, flushed, job = os.fsync, [], make_job(tmp_path)

    def flush_or_fail(descriptor):
        flushed.append(descriptor)
        if len(flushed) > fitting:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", flush_or_fail)
        with pytest.raises(OSError, match=rf"No space left on device: '{job.scratch}/"):
            count(job)
    assert not job.out.exists()
    count(job)
    assert hash_tree(job.out) == wanted
