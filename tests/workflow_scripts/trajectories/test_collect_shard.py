"""A shard holds its trajectories, whatever happens while it is recorded."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import mlx.core as mx
import numpy as np
import psutil
import pytest
import zarr

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.mmdit.sampling import bind_step
from taqmlx.models import embedded
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.runtime.blas import name_kernels
from taqmlx.store.conditioning import open_conditioning, write_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.recorder import Recorder
from taqmlx.store.sealed_job import SealedJob
from tools.small_results.shards import (
    CONFIG,
    PROMPTS,
    SHARDS,
    build_finished,
    hash_tree,
    list_arguments,
    prepare,
    run_entry,
    write_parameters,
)
from workflow_scripts.trajectories import collect_shard
from workflow_scripts.trajectories.collect_shard import record_shard, take_up

PARAMETERS = plan.select_parameters("collect_shard", CONFIG, PROMPTS)


def open_group(shard="000"):
    return zarr.open_group(build_finished() / "trajectories.zarr" / shard, mode="r")


def test_every_trajectory_is_in_one_shard_with_its_prompt_and_seed():
    found = {}
    for shard in SHARDS:
        group = open_group(shard)
        for j, p, seed in zip(group["trajectories"], group["prompt_indices"], group["seeds"], strict=True):
            found[int(j)] = (int(p), int(seed))
    assert found == {j: (j % 3, CONFIG["seed"] + j) for j in range(7)}


def test_arrays_have_the_documented_shapes_and_dtypes():
    group = open_group()
    assert {name: (array.shape, str(array.dtype)) for name, array in group.arrays()} == {
        "xs": ((5, 5, 8, 8, 16), "float16"),
        "latents": ((5, 8, 8, 16), "float32"),
        "ts": ((5,), "float32"),
        "sigmas": ((6,), "float32"),
        "trajectories": ((5,), "int64"),
        "prompt_indices": ((5,), "int64"),
        "seeds": ((5,), "int64"),
    }
    assert group["xs"].chunks == (1, 2, 8, 8, 16)
    assert [codec["name"] for codec in group["xs"].metadata.to_dict()["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert np.array_equal(group["ts"][:], group["sigmas"][:-1] * np.float32(1000))
    assert group["sigmas"][-1] == 0


def test_a_trajectory_starts_from_the_noise_of_its_seed():
    group = open_group()
    for row, seed in enumerate(group["seeds"][:]):
        noise = np.random.RandomState(seed).randn(1, 16, 8, 8).transpose(0, 2, 3, 1)[0]
        assert np.array_equal(group["xs"][row, 0], noise.astype(np.float32).astype(np.float16))


def test_each_saved_state_leads_to_the_next():
    """One Euler step of one trajectory alone, in NumPy, from each saved state, within the precision of float16."""
    group = open_group()
    model = embedded.load_transformer()
    conditioning = open_conditioning(build_finished() / "conditioning.safetensors", PARAMETERS)
    sigmas = group["sigmas"][:]
    for row in (0, 4):
        cs, cs_pooled = conditioning.read([int(group["prompt_indices"][row])])
        states = [*group["xs"][row].astype(np.float32), group["latents"][row]]
        for step in range(5):
            x = states[step]
            told = mx.array(np.full(2, sigmas[step] * 1000))
            pair, rows = mx.array(np.stack([x, x])), mx.array([0, 1])
            linear = bind_linears(model)
            velocity = predict_velocity(model, linear, pair, mx.array(cs[0]), mx.array(cs_pooled[0]), told, rows)
            positive, negative = x - np.array(velocity) * sigmas[step]
            denoised = negative + CONFIG["cfg_scale"] * (positive - negative)
            following = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
            np.testing.assert_allclose(following, states[step + 1], rtol=4e-3, atol=4e-3)


def test_another_batch_split_changes_rounding_only(tmp_path):
    prepare(tmp_path, batch_size=5)
    run_entry(tmp_path, "collect_shard")
    other = zarr.open_group(tmp_path / "trajectories.zarr" / "000", mode="r")
    np.testing.assert_allclose(other["latents"][:], open_group()["latents"][:], rtol=1e-3, atol=1e-3)


def test_prompts_with_one_trajectory_each_run_in_one_batch(tmp_path, monkeypatch):
    """As of 1,000 prompts with a trajectory each, of which a shard has several."""
    batches = []

    def bind(model, linear_at, cs, cs_pooled, prompts, *others):
        batches.append((cs.shape[0], prompts.tolist()))
        return bind_step(model, linear_at, cs, cs_pooled, prompts, *others)

    monkeypatch.setattr(collect_shard, "bind_step", bind)
    prepare(tmp_path, trajectories=3, prompts_per_shard=3, batch_size=2)
    run_entry(tmp_path, "collect_shard")
    assert batches == [(2, [0, 1]), (1, [0])]
    found = zarr.open_group(tmp_path / "trajectories.zarr" / "000", mode="r")["latents"][:]
    alone = [open_group(shard)["latents"][:] for shard in SHARDS]
    np.testing.assert_allclose(found, [alone[0][0], alone[0][3], alone[1][0]], rtol=1e-3, atol=1e-3)


def test_a_batch_beyond_the_memory_is_rejected_before_any_step(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Namespace(total=10**7, available=10**7))
    with pytest.raises(UserError, match=r"recording 2 trajectories .* GB of memory, of 0.0 GB; lower batch_size$"):
        run_entry(tmp_path, "collect_shard")
    assert not (tmp_path / "trajectories.zarr" / "000").exists()


def test_two_workers_at_once_write_the_same_bytes_as_one(tmp_path):
    prepare(tmp_path)
    workers = []
    for shard in SHARDS:
        options = [
            part
            for key, value in list_arguments(tmp_path, "collect_shard", shard).items()
            for part in (f"--{key}", str(value))
        ]
        workers.append(
            subprocess.Popen([sys.executable, "-m", "workflow_scripts.trajectories.collect_shard", *options])
        )
    assert [worker.wait(600) for worker in workers] == [0, 0]
    assert hash_tree(tmp_path / "trajectories.zarr") == hash_tree(build_finished() / "trajectories.zarr")


def test_a_finished_shard_with_other_parameters_is_never_overwritten(tmp_path):
    folder = shutil.copytree(build_finished(), tmp_path / "results")
    before = hash_tree(folder / "trajectories.zarr")
    write_parameters(folder, cfg_scale=2.0)
    with pytest.raises(UserError, match=r"000 was made with other parameters \(cfg_scale: 1.5 there, 2.0"):
        run_entry(folder, "collect_shard")
    assert hash_tree(folder / "trajectories.zarr") == before


def test_an_unknown_shard_is_named(tmp_path):
    prepare(tmp_path)
    with pytest.raises(UserError, match="--shard 002: no such shard"):
        run_entry(tmp_path, "collect_shard", "002")


def test_encodings_of_other_weights_are_rejected(tmp_path):
    prepare(tmp_path)
    path = tmp_path / "conditioning.safetensors"
    conditioning = open_conditioning(path, PARAMETERS)
    parameters = conditioning.seal["parameters"]
    write_conditioning(path, parameters, {"x": "0"}, zip(*conditioning.read([0, 1, 2]), strict=True))
    with pytest.raises(UserError, match="other weights"):
        run_entry(tmp_path, "collect_shard")


# Unfinished work


def make_recorder(scratch: Path, **changes) -> Recorder:
    stage = plan.select_stage(CollectShard, CONFIG | changes, PROMPTS)
    parameters = plan.select_shard(stage, "000").encode()
    levels = {"ts": np.arange(5, dtype=np.float32), "sigmas": np.arange(6, dtype=np.float32)}
    return Recorder(SealedJob(scratch.with_suffix(".out"), scratch, parameters, {"latent_shape": [2, 2, 16]}), levels)


def begin_counting(rows):
    """Latents that start at the trajectory's number and grow by one a step."""
    numbers = mx.array(rows[:, 0].astype(np.float32)).reshape(-1, 1, 1, 1)
    return mx.broadcast_to(numbers, (len(rows), 2, 2, 16)), lambda latents, step: latents + 1


def record(recorder: Recorder, begin=begin_counting) -> None:
    record_shard(recorder, take_up(recorder), begin)


def interrupt(scratch: Path, number: int = 6, step: int = 3) -> None:
    """Record until the batch that starts with trajectory `number` comes to `step`, and stop there."""

    def begin(rows):
        latents, advance = begin_counting(rows)

        def advance_until(latents, index):
            if rows[0, 0] == number and index == step:
                raise KeyboardInterrupt
            return advance(latents, index)

        return latents, advance_until

    with pytest.raises(KeyboardInterrupt):
        record(make_recorder(scratch), begin)


def publish(scratch: Path, begin=begin_counting) -> dict[str, str]:
    recorder = make_recorder(scratch)
    record(recorder, begin)
    recorder.publish()
    return hash_tree(recorder.job.out)


def test_a_shard_resumes_from_its_checkpoint(tmp_path, caplog):
    interrupt(tmp_path / "scratch")
    begun = []

    def begin(rows):
        begun.append(rows[:, 0].tolist())
        return begin_counting(rows)

    with caplog.at_level(logging.INFO, "taqmlx"):
        found = publish(tmp_path / "scratch", begin)
    assert "resuming" in caplog.text
    assert begun == [[6, 1], [4]]
    assert found == publish(tmp_path / "whole")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def swap(first: Path, second: Path) -> None:
    first_content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_content)


DAMAGES = {
    "a truncated checkpoint": (lambda s: os.truncate(s / "checkpoint", 200), "checkpoint is damaged"),
    "a missing checkpoint": (lambda s: (s / "checkpoint").unlink(), "checkpoint is missing"),
    "a flipped bit": (lambda s: flip(s / "group/xs/c.1.0.0.0.0"), "xs/c.1.0.0.0.0 is damaged"),
    "a missing chunk": (lambda s: (s / "group/xs/c.1.1.0.0.0").unlink(), "xs/c.1.1.0.0.0 is missing"),
    "swapped chunks": (
        lambda s: swap(s / "group/xs/c.0.0.0.0.0", s / "group/xs/c.1.0.0.0.0"),
        r"xs/c.0.\* or .* is not what was written",
    ),
    "a missing array": (lambda s: shutil.rmtree(s / "group/latents"), "latents/zarr.json is missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_scratch_is_named_and_discarded(tmp_path, caplog, name):
    damage, words = DAMAGES[name]
    interrupt(tmp_path / "scratch")
    damage(tmp_path / "scratch")
    with caplog.at_level(logging.INFO, "taqmlx"):
        found = publish(tmp_path / "scratch")
    assert caplog.messages[0].endswith("starting this shard over")
    assert re.search(words, caplog.messages[0])
    assert found == publish(tmp_path / "whole")


def test_scratch_with_other_parameters_is_discarded(tmp_path, caplog):
    interrupt(tmp_path / "scratch")
    recorder = make_recorder(tmp_path / "scratch", seed=99)
    with caplog.at_level(logging.INFO, "taqmlx"):
        assert take_up(recorder) is None
    assert "made with other parameters or inputs; starting this shard over" in caplog.text


def test_damage_between_writing_and_sealing_is_found(tmp_path):
    recorder = make_recorder(tmp_path / "scratch")
    record(recorder)
    flip(tmp_path / "scratch/group/latents/c.3.0.0.0")
    with pytest.raises(UserError, match=r"latents/c.3.0.0.0 is damaged"):
        recorder.publish()
    assert not recorder.job.out.exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "nan is not finite"), (np.inf, "inf is not finite"), (7e4 - 9, "70000 is too large for float16")],
)
def test_a_state_that_cannot_be_stored_is_named(tmp_path, value, words):
    def begin(rows):
        latents, advance = begin_counting(rows)
        spoil = mx.array(np.where(rows[:, 0] == 6, value, 0.0).astype(np.float32)).reshape(-1, 1, 1, 1)
        return latents, lambda latents, step: advance(latents, step) + (spoil if step == 2 else 0)

    with pytest.raises(UserError) as caught:
        record(make_recorder(tmp_path / "scratch"), begin)
    assert f"trajectory 6, step 3: the latent {words}" in str(caught.value)
    assert repr(PROMPTS[0]) in str(caught.value)


def test_non_finite_final_latents_are_named(tmp_path):
    def begin(rows):
        return begin_counting(rows)[0], lambda latents, step: latents + (np.nan if step == 4 else 1)

    with pytest.raises(UserError, match="trajectory 0, step 5: the latent nan is not finite"):
        record(make_recorder(tmp_path / "scratch"), begin)


def run_by_other_kernels(folder: Path, checkpoints: int = sys.maxsize) -> int:
    """Run the worker with kernels of every x86-64 CPU, killed after some checkpoints; its exit status."""
    code = "from pathlib import Path; from tests.support import kill_worker; "
    code += f"kill_worker.collect_until(Path({str(folder)!r}), "
    environment = os.environ | {"OPENBLAS_CORETYPE": "Nehalem"}
    return subprocess.run([sys.executable, "-c", f"{code}{checkpoints})"], env=environment).returncode


@pytest.mark.skipif(name_kernels() in ("reference", "of the system", "Nehalem"), reason="no other kernels")
def test_a_shard_started_on_another_cpu_family_is_finished(tmp_path, caplog):
    """What the other one stored stays as it is, and the rest differs by rounding."""
    folder = shutil.copytree(build_finished(), tmp_path / "results")
    finished = zarr.open_group(folder / "trajectories.zarr" / "000", mode="r")["latents"][:]
    shutil.rmtree(folder / "trajectories.zarr" / "000")
    assert run_by_other_kernels(folder) == 0
    other = zarr.open_group(folder / "trajectories.zarr" / "000", mode="r")["latents"][:]
    assert not np.array_equal(other, finished)
    shutil.rmtree(folder / "trajectories.zarr" / "000")
    assert run_by_other_kernels(folder, checkpoints=4) == -signal.SIGKILL  # the second batch is under way
    with caplog.at_level(logging.INFO, "taqmlx"):
        run_entry(folder, "collect_shard")
    assert "resuming" in caplog.text
    run_entry(folder, "verify_trajectories")
    found = zarr.open_group(folder / "trajectories.zarr" / "000", mode="r")["latents"][:]
    assert np.array_equal(found[0], other[0])
    assert not np.array_equal(found, other)
    np.testing.assert_allclose(found, finished, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("moments", [8, pytest.param(100, marks=pytest.mark.whole)])
def test_a_worker_killed_at_any_moment_ends_bit_identical(tmp_path, moments):
    command = [sys.executable, "-m", "tests.support.kill_worker", str(prepare(tmp_path)), str(moments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
