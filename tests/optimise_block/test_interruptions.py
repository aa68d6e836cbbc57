"""An interrupted block resumes to the same bytes, or says why it starts over."""

import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taqmlx.store.errors import UserError
from tests.optimise_block.conftest import SETTINGS, configure, quantize
from tests.support.interruption import interrupt_after_saves
from tests.support.kill_block import list_arguments
from tools.small_results.shards import hash_tree

TWO_PHASES = {"reconstruction": "separate", "adaround_drop": 0.5}


def interrupt(folder: Path, monkeypatch, saves: int = 1, **changes) -> None:
    """Let the entry be interrupted right after it saved its learning for the `saves`th time."""
    interrupt_after_saves(monkeypatch, saves, lambda: quantize(folder, **changes))


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_an_interrupted_block_resumes_and_ends_with_the_same_bytes(folder, finished, monkeypatch, caplog, saves):
    interrupt(folder, monkeypatch, saves)
    with caplog.at_level(logging.INFO, "taqmlx"):
        path = quantize(folder)
    assert f"resuming mm_00 after {2 * saves} iterations" in caplog.text
    assert hash_tree(path.parent) == hash_tree(finished["adaround"].parent)


@pytest.fixture(scope="module")
def in_two_phases(captured, tmp_path_factory) -> Path:
    """The file of a block that learned in two phases, undisturbed; not to be changed."""
    folder = tmp_path_factory.mktemp("two phases")
    shutil.copytree(captured / "block_inputs.zarr", folder / "block_inputs.zarr")
    return quantize(folder, **TWO_PHASES)


@pytest.mark.parametrize("saves", [2, 3, 5])
def test_an_interrupted_block_with_two_phases_resumes_and_ends_with_the_same_bytes(
    folder, in_two_phases, monkeypatch, saves
):
    interrupt(folder, monkeypatch, saves, **TWO_PHASES)
    assert hash_tree(quantize(folder, **TWO_PHASES).parent) == hash_tree(in_two_phases.parent)


def test_a_checkpoint_with_other_parameters_is_named_and_ignored(folder, finished, monkeypatch, caplog):
    monkeypatch.setitem(SETTINGS, "adaround_rate", 0.5)
    interrupt(folder, monkeypatch)
    monkeypatch.setitem(SETTINGS, "adaround_rate", 0.03)
    with caplog.at_level(logging.INFO, "taqmlx"):
        path = quantize(folder)
    assert "learning.safetensors was made with other parameters or inputs; it is ignored, and mm_00 starts over" in (
        caplog.text
    )
    assert hash_tree(path.parent) == hash_tree(finished["adaround"].parent)


@pytest.mark.slow
@pytest.mark.whole
def test_a_worker_killed_at_any_moment_ends_bit_identical(folder):
    configure(folder)
    command = [sys.executable, "-m", "tests.support.kill_block", str(folder), "15"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def start(folder: Path) -> subprocess.Popen:
    """The entry in a process of its own."""
    named = list_arguments(folder)
    options = ["--params", named.params, "--scratch", named.scratch, "--out", named.out, "--inputs", *named.inputs]
    return subprocess.Popen(
        [sys.executable, "-m", "workflow_scripts.blocks.optimise_block", *map(str, options)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_a_process_interrupted_by_ctrl_c_says_so_and_resumes(folder, captured, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(SETTINGS, "adaround_iterations", 60)
    configure(folder)
    process, checkpoint = start(folder), list_arguments(folder).scratch / "learning.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 130, said
    assert "interrupted; the next run resumes from the last checkpoint" in said
    assert "Traceback" not in said
    with caplog.at_level(logging.INFO, "taqmlx"):
        path = quantize(folder)
    assert "resuming mm_00 after" in caplog.text
    other = tmp_path / "undisturbed"
    shutil.copytree(captured / "block_inputs.zarr", other / "block_inputs.zarr")
    assert hash_tree(path.parent) == hash_tree(quantize(other).parent)


def test_diverged_learning_stops_with_iteration_and_layer_and_keeps_its_checkpoint(folder):
    with pytest.raises(UserError, match=r"mm_00: iteration \d+ gives a value that is not finite, first in \w+"):
        quantize(folder, adaround_step_rate=1e30, adaround_iterations=40, adaround_checkpoint_every=1)
    assert not list_arguments(folder).out.exists()
