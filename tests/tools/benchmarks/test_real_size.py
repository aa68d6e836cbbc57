"""The benchmark at the true size, run on the sizes of the miniature."""

import os
import subprocess
import sys

import pytest

from taqmlx.store.files import read_json
from tools.miniature.run import STARTUP

pytestmark = [pytest.mark.slow, pytest.mark.whole]

STAGES = {
    "create_store", "collect_shard", "gather_calibration", "collect_activations", "merge_activations",
    "capture_blocks", "round_shared", "pack_weights", "write_quant_config", "verify_weights", "sample_rung",
    "export_latents", "decode_latents", "measure_sensitivity", "measure_costs", "distil",
}  # fmt: skip


def record(folder):
    """What the command prints, which is what it measures."""
    paths = os.pathsep.join([str(STARTUP), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tools.benchmarks.real_size", "--folder", folder, "--size", "32", "--iterations", "2"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.endswith(" MB")]


def test_every_stage_and_block_is_measured_once(tmp_path):
    first, second = record(tmp_path), record(tmp_path)
    found = read_json(tmp_path / "32" / "record.json")
    assert set(found) == STAGES | {f"optimise_block mm_{i:02d}" for i in range(24)}
    assert all(part["wall_s"] > 0 and part["peak_mb"] > 20 for part in found.values())
    assert (len(first), second) == (len(found), [])
