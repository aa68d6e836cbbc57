"""The main job from end to end, and reruns of it."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from tests.support.workflow_run import PROMPTS, read_tree

pytestmark = pytest.mark.slow

PROMISED = [
    "quant_config.json",
    "quant_config.safetensors",
    "quantized/model.safetensors",
    "quantized/config.json",
    *(f"adaround/mm_{index:02d}{end}" for index in range(5) for end in (".safetensors", ".json", ".report.json")),
    *("adaround/shared.safetensors", "adaround/shared.json"),
    *("distilled.safetensors", "distilled.json", "distilled.report.json"),
    *("weight_costs.json", "mixed_bits.json"),
    "activations/statistics.json",
    "activations/statistics.safetensors",
    "activations/ranges.md",
    "calibration.zarr/zarr.json",
    "trajectories.zarr/zarr.json",
    "DiT_cali_data.npz",
]
# What one missing shard asks for: itself and what depends on it.
ONE_SHARD_AGAIN = [
    *["capture_blocks"] * 2,
    *["collect_activations"] * 2,
    "collect_shard",
    "distil",
    "gather_calibration",
    "measure_costs",
    "merge_activations",
    *["optimise_block"] * 5,
    "pack_weights",
    "quant_config",
    "round_shared",
    "search_bits",
    "write_quant_config",
]


def test_every_promised_file_is_made(finished):
    workflow, _ = finished
    for name in PROMISED:
        assert (workflow.results / name).is_file(), name


def test_the_last_message_lists_the_results(finished):
    workflow, said = finished
    summary = said[said.index("Results so far:") :]
    assert str(workflow.results / "quant_config.json") in summary
    assert "activations are simulated" in summary


def test_workers_show_their_rate_and_leave_a_log(finished):
    workflow, said = finished
    assert "/s, " in said
    assert (workflow.results / "logs" / "collect_shard" / "000.log").stat().st_size > 0


def test_the_flat_export_needs_no_pickle(finished):
    workflow, _ = finished
    with np.load(workflow.results / "DiT_cali_data.npz", allow_pickle=False) as flat:
        assert flat["xs"].shape == (21, 8, 8, 16)
        assert list(flat["prompts"]) == [prompt.strip() for prompt in PROMPTS]


def test_no_absolute_path_is_in_the_results(finished):
    workflow, _ = finished
    for name, content in read_tree(workflow.results).items():
        assert str(workflow.folder).encode() not in content, name


def test_a_second_run_has_nothing_to_do(finished):
    workflow, _ = finished
    assert "Nothing to be done" in workflow.run("quant_config").stdout


def test_a_deleted_shard_is_remade_alone_and_with_the_same_bytes(copy):
    before = read_tree(copy.results)
    shutil.rmtree(copy.results / "trajectories.zarr" / "001")
    assert copy.list_jobs("trajectories", "quant_config") == sorted([*ONE_SHARD_AGAIN, "trajectories"])
    assert copy.run("trajectories", "quant_config").returncode == 0
    assert read_tree(copy.results) == before


def test_a_setting_that_would_recompute_shards_stops_before_any_job(copy):
    before = read_tree(copy.results)
    refused = copy.run("quant_config", "--config", "cfg_scale=2")
    assert refused.returncode == 1
    (line,) = [line for line in refused.stdout.splitlines() if line.startswith("error:")]
    assert "cfg_scale: 3.0 there, 2.0 in the configuration" in line
    assert "overwrite=true" in line
    assert read_tree(copy.results) == before
    assert copy.list_jobs("quant_config", "--config", "cfg_scale=2", "overwrite=true").count("collect_shard") == 3


def test_a_damaged_shard_is_named_and_not_overwritten(copy):
    chunk = min((copy.results / "trajectories.zarr" / "002" / "xs").glob("c.*"))
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    failed = copy.run("verify_trajectories")
    assert failed.returncode == 1
    assert "trajectories.zarr/002" in failed.stdout
    assert chunk.read_bytes() == bytes(content)


def test_a_failed_shard_keeps_the_others_finished_and_reruns_alone(workflow):
    obstacle = workflow.results / "scratch" / "001"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    failed = workflow.run("quant_config")
    assert failed.returncode == 1
    assert "error: " in failed.stdout
    store = workflow.results / "trajectories.zarr"
    assert sorted(path.name for path in store.iterdir() if path.is_dir()) == ["000", "002"]
    assert "Traceback" in (workflow.results / "logs" / "collect_shard" / "001.log").read_text()
    obstacle.unlink()
    assert workflow.list_jobs("quant_config") == ONE_SHARD_AGAIN


@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.whole)], ids=["Ctrl-C", "kill -9"]
)
def test_an_interrupted_run_resumes_and_ends_with_the_same_bytes(workflow, finished, how):
    run = workflow.start("quant_config", cores=2)
    deadline = time.monotonic() + 120
    while not list(workflow.results.glob("trajectories.zarr/[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, how)
    run.communicate(timeout=600)
    if how == signal.SIGKILL:
        workflow.run("--unlock")
    done = workflow.run("quant_config", cores=2)
    assert done.returncode == 0, done.stdout
    reference = read_tree(finished[0].results)
    for name, content in read_tree(workflow.results).items():
        if not name.startswith("scratch"):
            assert content == reference[name], name


def test_the_quantization_config_names_its_files(finished):
    workflow, _ = finished
    config, found = (
        json.loads((workflow.results / f"{name}.json").read_text()) for name in ("quant_config", "mixed_bits")
    )
    chosen = found["mixed"]["layers"]
    assert config["layers"].keys() == chosen.keys()  # every linear, those of no block too
    for name, entry in config["layers"].items():
        assert {key: entry["weight"][key] for key in ("bits", "group_size")} == chosen[name], name
    assert 4.4 < found["mixed"]["bits_per_weight"] <= 4.5
