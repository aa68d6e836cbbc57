"""Block inputs are captured once, at points of all steps and prompts, even if the worker is killed."""

import hashlib
import logging
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import zarr

from taqmlx.mmdit.blocks import build_blocks
from taqmlx.mmdit.forward import advance_block, bind_linears, predict_velocity
from taqmlx.models.catalogue import find_model
from taqmlx.store.block_inputs import open_block_inputs
from taqmlx.store.block_recorder import BlockRecorder
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.seal import make_seal, read_group_seal, write_group_seal
from tests.support.kill_capture import list_arguments
from tools.small_results import study as small
from tools.small_results.shards import hash_tree
from workflow_scripts.blocks import capture_blocks

# 90 points at 3 steps, 80 of them captured: a part is a batch of 32 points and one of 8.
PARAMETERS = {
    "stage": "capture_blocks",
    "version": 1,
    "model": "embedded",
    "seed": 0,
    "capture_points": 80,
    "capture_shards": 2,
}
SHARDS = ("00", "01")


def write_parameters(folder: Path, **changes) -> None:
    write_json(folder / "params.json", PARAMETERS | changes)


def capture(folder: Path, shard: str = "00") -> Path:
    arguments = list_arguments(folder, shard)
    capture_blocks.main(arguments)
    return arguments.out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a calibration set and its arrays; not to be changed."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "POINTS_PER_STEP", 30)
        arrays = small.write_calibration(folder / "calibration.zarr")
    write_parameters(folder)
    return folder, arrays


@pytest.fixture(scope="module")
def points(prepared):
    return prepared[1]


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """A folder with both parts finished; not to be changed."""
    folder = shutil.copytree(prepared[0], tmp_path_factory.mktemp("finished") / "results")
    for shard in SHARDS:
        capture(folder, shard)
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    """A folder with nothing but parameters and a calibration set."""
    return shutil.copytree(prepared[0], tmp_path / "results")


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "results")


@pytest.fixture(scope="module")
def captured(finished):
    return open_block_inputs([list_arguments(finished, shard).out for shard in SHARDS])


@pytest.fixture(scope="module")
def transformer():
    return find_model("embedded").load_transformer()


def test_shards_are_disjoint_and_spread_over_steps_and_prompts(captured, points):
    parts = [seal["parameters"]["points"] for seal in captured.seals]
    assert [len(part) for part in parts] == [40, 40]
    chosen = np.concatenate(parts)
    assert len(set(chosen.tolist())) == 80
    assert sorted(np.unique(points["steps"][chosen], return_counts=True)[1]) == [26, 27, 27]
    prompts = [np.bincount(points["prompt_indices"][chosen][points["steps"][chosen] == s]) for s in small.STEPS]
    available = [np.bincount(points["prompt_indices"][points["steps"] == s]) for s in small.STEPS]
    for taken, there in zip(prompts, available, strict=True):
        assert all(count >= min(there[prompt], taken.max() - 1) for prompt, count in enumerate(taken))


def test_every_point_has_a_row_with_its_prompt_and_one_without(captured, points):
    chosen = np.concatenate([seal["parameters"]["points"] for seal in captured.seals])
    for half in (0, 1):
        assert captured.points[captured.negative == half].tolist() == chosen.tolist()
    for name in ("sigmas", "steps", "prompt_indices"):
        np.testing.assert_array_equal(getattr(captured, name), points[name][captured.points])


def test_rows_equal_the_states_of_a_forward_of_that_point_alone(captured, points, transformer):
    linear, read = bind_linears(transformer), {}

    def record(name, x):
        read[name] = np.array(x)
        return linear(name, x)

    def normalize(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-6)

    image, text = (values.astype(np.float32) for values in captured.read_block(3))
    for row in (0, 35, 70, 100, 159):
        point, half = captured.points[row], captured.negative[row]
        prompt = points["prompt_indices"][point]
        conditions = (mx.array(points[name][prompt, half][None]) for name in ("cs", "cs_pooled"))
        latents = mx.array(points["xs"][point][None].astype(np.float32))
        predict_velocity(transformer, record, latents, *conditions, mx.array(points["ts"][[point]]), mx.array([0]))
        modulation = read["mm_03.image.adaLN_modulation"]
        np.testing.assert_allclose(captured.modulation[row], modulation[0], rtol=1e-4, atol=1e-5)
        for stream, x in (("image", image[row]), ("text", text[row])):
            adaln = np.array(linear(f"mm_03.{stream}.adaLN_modulation", mx.array(modulation)))[0]
            expected = normalize(x) * (1 + adaln[128:256]) + adaln[:128]
            found = read[f"mm_03.{stream}.attn.q_proj"][0]
            np.testing.assert_allclose(expected, found, atol=4e-3 * np.abs(found).max())


def test_replayed_blocks_give_the_targets(captured, transformer):
    linear, rows = bind_linears(transformer), mx.arange(len(captured.points))
    modulation = mx.array(captured.modulation)
    for index, block in enumerate(build_blocks(transformer, (8, 8))):
        inputs = [mx.array(x).astype(mx.float32) for x in captured.read_block(index)]
        outputs = advance_block(linear, block, *inputs, modulation, rows)
        for output, target, x in zip(outputs, captured.read_targets(index), inputs, strict=True):
            assert (output is None) == (target is None)
            if output is not None:
                difference = np.array(output) - target.astype(np.float32)
                # fp16 rounds input and target by 2^-12 of each value, root mean square; the block passes the first on.
                assert np.linalg.norm(difference) <= 1e-3 * np.linalg.norm(target.astype(np.float32))
                assert np.linalg.norm(np.array(output) - np.array(x)) > 0.05 * np.linalg.norm(np.array(x))


def test_a_group_of_blocks_has_the_rows_of_all_blocks(folder, captured):
    blocks = ["mm_01", "mm_02"]
    outs = []
    for shard in SHARDS:
        arguments = list_arguments(folder, shard)
        arguments.blocks = blocks
        capture_blocks.main(arguments)
        outs.append(arguments.out)
    found = open_block_inputs(outs)
    for index in (1, 2):
        for own, expected in (
            (found.read_block(index), captured.read_block(index)),
            (found.read_targets(index), captured.read_targets(index)),
        ):
            for values, others in zip(own, expected, strict=True):
                np.testing.assert_array_equal(values, others)
    np.testing.assert_array_equal(found.modulation, captured.modulation)
    assert [seal["parameters"]["blocks"] for seal in found.seals] == [blocks, blocks]


def test_blocks_that_are_not_consecutive_are_rejected(folder):
    arguments = list_arguments(folder)
    arguments.blocks = ["mm_01", "mm_03"]
    with pytest.raises(UserError, match="--blocks: mm_01, mm_03 are not consecutive blocks of embedded"):
        capture_blocks.main(arguments)


def test_a_smaller_calibration_set_is_captured_completely(folder):
    write_parameters(folder, capture_points=1000, capture_shards=1)
    seal = read_group_seal(capture(folder))
    assert sorted(seal["parameters"]["points"]) == list(range(90))


def test_the_predicted_size_is_that_of_the_arrays(folder, caplog):
    with caplog.at_level(logging.INFO, "taqmlx"):
        out = capture(folder)
    size = sum(array.nbytes for _, array in zarr.open_group(out, mode="r").arrays())
    predicted = next(message for message in caplog.messages if "MB in" in message)
    assert predicted == f"40 points, 5 blocks: {size / 1e6:.1f} MB in {out}"


def test_a_full_disk_is_rejected_before_anything_is_written(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3_000_000))
    with pytest.raises(UserError, match=r"4\.1 MB are needed and 3\.0 MB are free; make room"):
        capture(folder)
    assert not list_arguments(folder).scratch.exists()


def test_the_seal_names_the_inputs_of_the_shard(finished):
    seal = read_group_seal(list_arguments(finished).out)
    assert seal["parameters"] == PARAMETERS | {"shard": "00", "points": seal["parameters"]["points"]}
    assert seal["inputs"]["calibration"] == read_group_seal(finished / "calibration.zarr")["fingerprint"]
    assert seal["inputs"]["model"] == find_model("embedded").file_digests()
    assert str(finished) not in (list_arguments(finished).out / "zarr.json").read_text()


def test_too_few_points_are_rejected(folder):
    write_parameters(folder, capture_points=2)
    with pytest.raises(UserError, match="capture_points: 2 is too few for 3 steps; set it to 3 or more"):
        capture(folder)


def test_shards_without_points_are_rejected(folder):
    write_parameters(folder, capture_points=3, capture_shards=4)
    with pytest.raises(UserError, match="capture_shards: 4 jobs cannot share 3 points; set it to 3 or less"):
        capture(folder)


def test_an_unknown_shard_is_rejected(folder):
    with pytest.raises(UserError, match="--shard 02: no such shard; choose one from 00 to 01"):
        capture(folder, "02")


def test_a_changed_calibration_set_is_rejected(folder):
    zarr.open_group(folder / "calibration.zarr")["xs"][0] = 0
    with pytest.raises(UserError, match="xs does not match its seal"):
        capture(folder)


def test_a_non_finite_value_is_named(folder, points):
    group = zarr.open_group(folder / "calibration.zarr")
    bad = int(np.flatnonzero(points["steps"] == 3)[0])
    group["xs"][bad, 0, 0, 0] = np.nan
    seal = read_group_seal(folder / "calibration.zarr")
    digests = seal["sha256"] | {"xs": hashlib.sha256(group["xs"][...].tobytes()).hexdigest()}
    write_group_seal(folder / "calibration.zarr", make_seal(seal["parameters"], seal["inputs"], digests))
    write_parameters(folder, capture_points=90, capture_shards=1)
    with pytest.raises(UserError, match=f"mm_00 reads the image value nan at calibration point {bad}, which is not"):
        capture(folder)


# Unfinished and finished work


def test_a_finished_shard_with_other_parameters_is_never_overwritten(copy):
    before = hash_tree(copy / "block_inputs.zarr")
    write_parameters(copy, seed=1)
    with pytest.raises(UserError, match=r"00 was made with other parameters \(points: "):
        capture(copy)
    assert hash_tree(copy / "block_inputs.zarr") == before


def interrupt(folder, monkeypatch):
    """Capture one batch and stop in the middle of the second."""
    store = BlockRecorder.store_batch

    def store_until(recorder, modulation, states):
        def stop(states):
            yield next(states)
            raise KeyboardInterrupt

        store(recorder, modulation, stop(states) if recorder.done else states)

    with monkeypatch.context() as patch:
        patch.setattr(BlockRecorder, "store_batch", store_until)
        with pytest.raises(KeyboardInterrupt):
            capture(folder)
    return list_arguments(folder).scratch


def test_an_interrupted_shard_resumes_and_ends_with_equal_bytes(folder, finished, monkeypatch, caplog):
    interrupt(folder, monkeypatch)
    with caplog.at_level(logging.INFO, "taqmlx"):
        out = capture(folder)
    assert "at batch 2 of 2" in caplog.text
    assert hash_tree(out) == hash_tree(list_arguments(finished).out)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "a damaged checkpoint": (lambda s: flip(s / "checkpoint.json"), "checkpoint.json (is|has a) damaged"),
    "a missing checkpoint": (lambda s: (s / "checkpoint.json").unlink(), "checkpoint.json is missing"),
    "a flipped bit": (lambda s: flip(s / "group/image/c.3.0.0.0"), r"image/c\.3\.0\.0\.0 is damaged"),
    "a missing chunk": (lambda s: (s / "group/modulation/c.0.0").unlink(), r"modulation/c\.0\.0 is missing"),
    "a chunk in another's place": (
        lambda s: shutil.copy(s / "group/text/c.1.0.0.0", s / "group/text/c.2.0.0.0"),
        r"text/c\.2\.0\.0\.0 does not match its seal",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_scratch_is_named_and_discarded(folder, finished, monkeypatch, caplog, name):
    damage, words = DAMAGES[name]
    damage(interrupt(folder, monkeypatch))
    with caplog.at_level(logging.INFO, "taqmlx"):
        out = capture(folder)
    assert caplog.messages[0].endswith("starting this shard over")
    assert re.search(words, caplog.messages[0])
    assert hash_tree(out) == hash_tree(list_arguments(finished).out)


def test_scratch_with_other_parameters_is_discarded(folder, monkeypatch, caplog):
    interrupt(folder, monkeypatch)
    write_parameters(folder, seed=1)
    with caplog.at_level(logging.INFO, "taqmlx"):
        out = capture(folder)
    assert re.search(r"was made with other parameters \(.*\); starting this shard over", caplog.text)
    assert read_group_seal(out)["parameters"]["seed"] == 1


@pytest.mark.slow
@pytest.mark.whole
def test_a_worker_killed_at_any_moment_ends_bit_identical(folder):
    command = [sys.executable, "-m", "tests.support.kill_capture", str(folder), "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_damaged_chunk_is_named(copy):
    paths = [list_arguments(copy, shard).out for shard in SHARDS]
    flip(paths[1] / "text/c.4.1.0.0")
    inputs = open_block_inputs(paths)
    inputs.read_block(3)
    with pytest.raises(UserError, match=r"01/text/c\.4\.1\.0\.0 is damaged"):
        inputs.read_block(4)
