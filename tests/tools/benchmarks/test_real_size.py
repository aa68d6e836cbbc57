"""The benchmark at the true size, run on the sizes of the miniature."""

import os
import subprocess
from pathlib import Path

import pytest

from taqmlx.store.files import read_json
from tests.support.warm import start_warm_python
from tools.miniature.run import surround

pytestmark = [pytest.mark.slow, pytest.mark.whole]

STAGES = {
    "create_store", "collect_shard", "gather_calibration", "collect_activations", "merge_activations",
    "capture_blocks", "round_shared", "pack_weights", "write_quant_config", "verify_weights", "sample_rung",
    "export_latents", "decode_latents", "measure_sensitivity", "measure_costs", "distil",
}  # fmt: skip


def record(python, folder):
    """What the command prints, which is what it measures."""
    options = ("--folder", folder, "--size", "32", "--iterations", "2", "--threads", "1")
    done = subprocess.run(
        [python, "-m", "tools.benchmarks.real_size", *options],
        env=os.environ | surround(folder / "hub"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.endswith(" MB")]


def test_every_stage_and_block_is_measured_once(tmp_path):
    with start_warm_python(Path(), surround(tmp_path / "hub")) as python:
        first, second = record(python, tmp_path), record(python, tmp_path)
    found = read_json(tmp_path / "32" / "record.json")
    assert set(found) == STAGES | {f"optimise_block mm_{i:02d}" for i in range(24)}
    assert sum(part["wall_s"] for part in found.values()) > 1
    assert all(part["peak_mb"] > 20 for part in found.values())
    assert (len(first), second) == (len(found), [])
