"""A block's job writes the best of the ways it tried, as its rules say, and goes on where it was interrupted."""

import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.kill_block import list_arguments
from tests.quantization import conftest as small
from tests.shards import hash_tree
from workflow_scripts import capture_blocks, configuration, optimise_block, plan
from workflow_scripts.block_plan import select_block
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.numerics.weight_grid import choose_grid, round_to_grid
from workflow_scripts.store.block_file import digest_codes, read_block, write_block
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file, read_json, write_json
from workflow_scripts.store.seal import make_seal, read_group_seal, write_group_seal
from workflow_scripts.store.tensors import read_tensors

# 12 points captured at 3 steps, two of them held out: 20 rows to learn from and 4 that measure.
SETTINGS = {
    "selected_steps": 3,
    "capture_points": 12,
    "held_out": 0.17,
    "adaround_iterations": 6,
    "adaround_batch": 4,
    "adaround_rate": 0.03,
    "adaround_checkpoint_every": 2,
}
TRIED = {"rtn": ["rtn"], "gptq": ["rtn", "gptq"], "adaround": ["rtn", "gptq", "adaround"]}


def select(stage: str, **changes) -> plan.Parameters:
    config = configuration.complete(SETTINGS | changes, configuration.load_schema())
    return plan.select_parameters(stage, config, [])


def configure(folder: Path, block: str = "mm_00", **changes) -> plan.Parameters:
    parameters = select_block(select("optimise_block", **changes), block)
    write_json(folder / "params.json", parameters)
    return parameters


def quantize(
    folder: Path, block: str = "mm_00", before: tuple[str, ...] = (), replace: bool = False, **changes
) -> Path:
    """Run the entry; the block's file."""
    configure(folder, block, **changes)
    paths = [folder / "adaround" / f"{name}.safetensors" for name in before]
    arguments = list_arguments(folder, block, before=paths, replace=replace)
    optimise_block.main(arguments)
    return arguments.out


def read_report(path: Path) -> dict:
    return read_json(path.with_suffix(".report.json"))


@pytest.fixture(scope="session")
def captured(tmp_path_factory) -> Path:
    """A folder with captured inputs; not to be changed."""
    folder = tmp_path_factory.mktemp("captured")
    small.write_calibration(folder / "calibration.zarr")
    write_json(folder / "capture.json", select("capture_blocks"))
    for shard in ("00", "01"):
        out, scratch = folder / "block_inputs.zarr" / shard, folder / "capturing" / shard
        named = {"params": folder / "capture.json", "calibration": folder / "calibration.zarr"}
        capture_blocks.main(Namespace(shard=shard, scratch=scratch, out=out, **named))
    return folder


@pytest.fixture
def folder(captured, tmp_path) -> Path:
    """A folder with captured inputs and nothing else."""
    shutil.copytree(captured / "block_inputs.zarr", tmp_path / "results" / "block_inputs.zarr")
    return tmp_path / "results"


@pytest.fixture(scope="session")
def finished(captured, tmp_path_factory) -> dict[str, Path]:
    """The file of mm_00 by engine; not to be changed."""
    files = {}
    for engine in TRIED:
        place = tmp_path_factory.mktemp(engine)
        shutil.copytree(captured / "block_inputs.zarr", place / "block_inputs.zarr")
        files[engine] = quantize(place, engine=engine)
    return files


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A folder with mm_00 finished by rounding to nearest."""
    return shutil.copytree(finished["rtn"].parent.parent, tmp_path / "results")


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    """The model's weights by layer name."""
    paths = {layer.path: layer.name for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])}
    parameters = dict(tree_flatten(find_model("embedded").load_transformer().parameters()))
    return {name: np.array(parameters[f"{path}.weight"]) for path, name in paths.items()}


# What is made


@pytest.mark.parametrize("engine", TRIED)
def test_the_report_has_the_errors_of_every_way_tried_and_the_best_is_chosen(finished, engine):
    report = read_report(finished[engine])
    assert report["block"] == "mm_00"
    assert report["rows"] == {"training": 20, "held_out": 4}
    assert sorted(report["errors"]) == sorted(TRIED[engine])
    sums = {name: sum(error["quantized_inputs"].values()) for name, error in report["errors"].items()}
    assert report["chosen"] == min(sums, key=sums.get)
    assert sums[report["chosen"]] <= sums["rtn"]
    for error in report["errors"].values():
        assert error.keys() == {"quantized_inputs", "full_precision_inputs"}
        assert all(set(streams) == {"image", "text"} for streams in error.values())
        assert all(0 < value < 1 for streams in error.values() for value in streams.values())


def test_an_engine_measures_the_simpler_ones_alike(finished):
    reports = {engine: read_report(path)["errors"] for engine, path in finished.items()}
    assert reports["rtn"]["rtn"] == reports["gptq"]["rtn"] == reports["adaround"]["rtn"]
    assert reports["gptq"]["gptq"] == reports["adaround"]["gptq"]


def test_the_report_has_a_loss_for_every_iteration_of_few(finished):
    loss = read_report(finished["adaround"])["loss"]
    assert (loss["every"], len(loss["values"])) == (1, 6)
    assert read_report(finished["rtn"])["loss"]["values"] == []


def test_rounding_to_nearest_gives_the_nearest_codes(finished, weights):
    file = read_block(finished["rtn"])
    assert len(file.weights) == 14
    for name, layer in file.weights.items():
        grid = choose_grid(weights[name], file.seal["parameters"]["layers"][name]["weight"])
        np.testing.assert_array_equal(layer.grid.scales, grid.scales)
        np.testing.assert_array_equal(layer.codes, round_to_grid(weights[name], grid))
    assert all(not layer["moved_from_nearest"] for layer in read_report(finished["rtn"])["layers"].values())


def test_the_adaln_weights_are_rounded_to_nearest_by_every_engine(finished):
    files = {engine: read_block(path) for engine, path in finished.items()}
    for stream in ("image", "text"):
        name = f"mm_00.{stream}.adaLN_modulation"
        assert files["adaround"].weights[name].grid.bits == 8
        for engine in ("gptq", "adaround"):
            np.testing.assert_array_equal(files[engine].weights[name].codes, files["rtn"].weights[name].codes)


def test_inputs_have_a_step_for_every_noise_level_and_a_shift_after_the_gelu(finished):
    file = read_block(finished["adaround"])
    assert file.sigmas.tolist() == small.SIGMAS
    assert len(file.inputs) == 12
    for name, layer in file.inputs.items():
        assert layer.steps.shape == (3,)
        assert (layer.steps > 0).all()
        assert (layer.shift is not None) == name.endswith("fc2")
        assert layer.migration is None


def test_the_seal_names_what_the_block_was_made_of(finished, captured):
    path = finished["adaround"]
    seal = read_block(path).seal
    assert seal["parameters"] == select_block(select("optimise_block"), "mm_00")
    parts = sorted((captured / "block_inputs.zarr").iterdir())
    assert seal["inputs"] == {
        "model": find_model("embedded").file_digests(),
        "block_inputs": [read_group_seal(part)["fingerprint"] for part in parts],
        "before": [],
    }
    assert seal["sha256"].pop("codes") == {
        key.removesuffix(".weight"): digest_codes(array)
        for key, array in read_tensors(path).items()
        if key.endswith(".weight")
    }
    assert seal["sha256"] == {path.name: hash_file(path)}
    assert b"captured" not in path.with_suffix(".json").read_bytes()


def test_nothing_else_stays(finished):
    assert sorted(path.name for path in finished["adaround"].parent.iterdir()) == [
        "mm_00.json",
        "mm_00.report.json",
        "mm_00.safetensors",
    ]
    assert not list_arguments(finished["adaround"].parent.parent).scratch.exists()


def test_the_order_of_the_parts_does_not_matter(folder, finished):
    configure(folder, engine="gptq")
    arguments = list_arguments(folder)
    arguments.inputs.reverse()
    optimise_block.main(arguments)
    assert hash_tree(arguments.out.parent) == hash_tree(finished["gptq"].parent)


def test_the_last_block_has_no_text_output(folder):
    path = quantize(folder, "mm_04")
    file = read_block(path)
    assert len(file.weights) == 11
    assert "mm_04.text.mlp.fc1" not in file.weights
    assert {*read_report(path)["errors"]["adaround"]["quantized_inputs"]} == {"image"}


# What the rules ask for


@pytest.mark.parametrize("engine", ["gptq", "adaround"])
def test_rules_by_pattern_reach_their_layers(folder, engine):
    rules = [
        {"layers": "*.image.*", "bits": 4, "group_size": 64},
        {"layers": "*.text.*", "bits": 3, "group_size": 32},
        {"layers": "*.fc2", "bits": 6, "group_size": "row", "symmetric": True, "range": "search"},
        {"layers": "*.image.mlp.fc1", "bits": 7},
        {"layers": "*.text.attn.o_proj", "bits": 16},
        {"layers": "*adaLN_modulation", "bits": 8, "group_size": 128},
    ]
    file = read_block(quantize(folder, engine=engine, weights=rules))
    found = {name: (layer.grid.bits, layer.grid.group_size) for name, layer in file.weights.items()}
    expected = {
        **{f"mm_00.image.attn.{part}_proj": (4, 64) for part in "qkvo"},
        **{f"mm_00.text.attn.{part}_proj": (3, 32) for part in "qkv"},
        **{f"mm_00.{stream}.mlp.fc2": (6, 128) for stream in ("image", "text")},
        **{f"mm_00.{stream}.adaLN_modulation": (8, 128) for stream in ("image", "text")},
        **{"mm_00.image.mlp.fc1": (7, 64), "mm_00.text.mlp.fc1": (3, 32)},
    }
    assert found == expected
    for layer in file.weights.values():
        assert layer.codes.max() < 2**layer.grid.bits
        assert len(np.unique(layer.codes)) > 2 ** (layer.grid.bits - 1)


@pytest.mark.parametrize("engine", TRIED)
def test_unquantized_weights_leave_only_the_inputs(folder, engine):
    path = quantize(folder, engine=engine, weights=[{"layers": "*", "bits": 16}])
    file = read_block(path)
    assert file.weights == {}
    assert len(file.inputs) == 12
    errors = read_report(path)["errors"]["rtn"]
    assert all(value < 1e-5 for value in errors["full_precision_inputs"].values())
    assert all(value > 1e-5 for value in errors["quantized_inputs"].values())


@pytest.mark.parametrize("engine", TRIED)
def test_nothing_quantized_at_all_is_the_block_itself(folder, engine):
    nothing = [{"layers": "*", "bits": 16}]
    path = quantize(folder, engine=engine, weights=nothing, activations=nothing)
    file = read_block(path)
    assert (file.weights, file.inputs) == ({}, {})
    assert all(value < 1e-5 for value in read_report(path)["errors"]["rtn"]["quantized_inputs"].values())


@pytest.mark.parametrize(
    ("rule", "shape"), [({"policy": "static"}, (1,)), ({"policy": "lut"}, (3,)), ({"policy": "dynamic"}, None)]
)
def test_the_policy_decides_what_is_kept_of_the_inputs(folder, rule, shape):
    inputs = read_block(quantize(folder, engine="rtn", activations=[{"layers": "*", "bits": 8} | rule])).inputs
    own = {name: layer for name, layer in inputs.items() if "adaLN" not in name}
    assert len(own) == (12 if shape else 0)
    assert all(layer.steps.shape == shape for layer in own.values())


def test_a_migration_is_in_the_weights_and_beside_them(folder, weights):
    rules = [{"layers": "mm_*", "bits": 8}, {"layers": "*.fc2", "bits": 8, "migration": True}]
    path = quantize(folder, activations=rules)
    file, report = read_block(path), read_report(path)
    migrated = {name: layer.migration for name, layer in file.inputs.items() if layer.migration is not None}
    assert any((migration > 1).any() for migration in migrated.values())
    for name, migration in migrated.items():
        assert name.endswith(".fc2")
        assert migration.min() == 1
        assert report["layers"][name]["migrated_channels"] == (migration > 1).sum()
        grid = choose_grid(weights[name] * migration, file.seal["parameters"]["layers"][name]["weight"])
        np.testing.assert_array_equal(file.weights[name].grid.scales, grid.scales)


@pytest.mark.parametrize("changes", [{"reconstruction": "separate"}, {"adaround_drop": 0.5}, {"adaround_batch": 1000}])
def test_other_ways_of_learning_run_to_their_end(folder, changes):
    report = read_report(quantize(folder, **changes))
    assert len(report["loss"]["values"]) == (12 if "reconstruction" in changes else 6)


# Finished work


def test_a_finished_block_is_left_alone(copy, caplog):
    arguments = list_arguments(copy)
    before = hash_tree(arguments.out.parent)
    arguments.scratch.mkdir(parents=True)
    with caplog.at_level(logging.INFO, "workflow_scripts"):
        quantize(copy, engine="rtn", replace=True)
    assert "mm_00.safetensors is finished already" in caplog.text
    assert hash_tree(arguments.out.parent) == before
    assert not arguments.scratch.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "gptq"}, r'engine: "rtn" there, "gptq" in'),
        ({"engine": "rtn", "held_out": 0.5}, r"held_out: 0.17 there, 0.5 in"),
        (
            {"engine": "rtn", "weights": [{"layers": "*", "bits": 5}]},
            r"layers.mm_00.image.adaLN_modulation.weight.bits: 8 there, 5 in",
        ),
    ],
)
def test_a_finished_block_of_other_parameters_is_replaced_only_if_asked(copy, caplog, changes, words):
    before = hash_tree(copy / "adaround")
    with pytest.raises(UserError, match=rf"^\S+mm_00\.safetensors was made with other parameters \({words}[^\n]+$"):
        quantize(copy, **changes)
    assert hash_tree(copy / "adaround") == before
    with caplog.at_level(logging.INFO, "workflow_scripts"):
        path = quantize(copy, replace=True, **changes)
    assert re.search(rf"other parameters \({words}.*; it is made again", caplog.text)
    assert read_block(path).seal["parameters"] == select_block(select("optimise_block", **changes), "mm_00")


def test_a_damaged_block_is_named_and_made_again_if_asked(copy):
    path = copy / "adaround" / "mm_00.safetensors"
    before = hash_tree(copy / "adaround")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mm_00\.safetensors is not what its seal vouches for"):
        quantize(copy, engine="rtn")
    quantize(copy, engine="rtn", replace=True)
    assert hash_tree(copy / "adaround") == before


@pytest.mark.parametrize("name", ["mm_00.safetensors", "mm_00.json", "mm_00.report.json"])
def test_a_block_that_lacks_a_file_is_made_again(copy, name):
    before = hash_tree(copy / "adaround")
    (copy / "adaround" / name).unlink()
    quantize(copy, engine="rtn")
    assert hash_tree(copy / "adaround") == before


# What it is made of


def test_an_unknown_block_is_refused(folder):
    write_json(folder / "params.json", configure(folder) | {"block": "mm_05"})
    with pytest.raises(UserError, match="mm_05: the model embedded has the blocks mm_00, mm_01, mm_02, mm_03, mm_04"):
        optimise_block.main(list_arguments(folder, "mm_05"))


def test_a_missing_part_is_named(folder):
    configure(folder)
    one = list_arguments(folder).inputs[:1]
    with pytest.raises(UserError, match="parts 00, 01 are needed and 00 are named"):
        optimise_block.main(list_arguments(folder, inputs=one))
    with pytest.raises(UserError, match=r"02/zarr.json is missing"):
        optimise_block.main(list_arguments(folder, inputs=[*one, folder / "block_inputs.zarr" / "02"]))


def test_inputs_of_another_model_are_refused(folder):
    for part in list_arguments(folder).inputs:
        seal = read_group_seal(part)
        inputs = seal["inputs"] | {"model": dict.fromkeys(seal["inputs"]["model"], "0" * 64)}
        write_group_seal(part, make_seal(seal["parameters"], inputs, seal["sha256"]))
    with pytest.raises(UserError, match=r"00 was made with other inputs \(model"):
        quantize(folder)


def test_a_damaged_row_is_named(folder):
    chunk = folder / "block_inputs.zarr/01/image/c.1.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"01/image/c\.1\.0\.0\.0 is damaged"):
        quantize(folder, engine="rtn")


def test_a_chain_feeds_a_block_from_the_quantized_ones_before_it(folder):
    chained = {"engine": "gptq", "block_inputs": "quantized"}
    quantize(folder, "mm_00", **chained)
    path = quantize(folder, "mm_01", before=("mm_00",), **chained)
    chain = read_block(path)
    assert chain.seal["inputs"]["before"] == [read_json(folder / "adaround/mm_00.json")["checksum"]]
    shutil.rmtree(folder / "adaround")
    alone = read_block(quantize(folder, "mm_01", engine="gptq"))
    assert any((layer.codes != alone.weights[name].codes).any() for name, layer in chain.weights.items())


def test_a_chain_with_another_block_before_is_another_block(folder):
    chained = {"engine": "rtn", "block_inputs": "quantized"}
    quantize(folder, "mm_00", **chained)
    quantize(folder, "mm_01", before=("mm_00",), **chained)
    quantize(folder, "mm_00", replace=True, weights=[{"layers": "*", "bits": 5}], **chained)
    with pytest.raises(UserError, match=r"mm_01\.safetensors was made with other inputs \(before"):
        quantize(folder, "mm_01", before=("mm_00",), **chained)


@pytest.mark.parametrize(
    ("how", "block", "before"),
    [
        ("quantized", "mm_01", ()),
        ("quantized", "mm_02", ("mm_01", "mm_00")),
        ("quantized", "mm_00", ("mm_00",)),
        ("full_precision", "mm_01", ("mm_00",)),
    ],
)
def test_other_blocks_before_than_the_chain_needs_are_refused(folder, how, block, before):
    for name in before:
        configure(folder, name)
        small_block = select_block(select("optimise_block", engine="rtn", block_inputs=how), name)
        shutil.copytree(write_small(folder, small_block), folder / "adaround", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"--before: the files of blocks \[.*\] are needed in this order, and \["):
        quantize(folder, block, before=before, engine="rtn", block_inputs=how)


def write_small(folder: Path, parameters: plan.Parameters) -> Path:
    """A folder with a block's file that holds no layer."""
    place = folder / "small" / f"{parameters['block']}.safetensors"
    write_block(place, {}, {}, np.array(small.SIGMAS, np.float32), parameters, {})
    return place.parent


# Interruptions


def interrupt(folder: Path, monkeypatch, saves: int = 1) -> Path:
    """Let the entry be interrupted right after it saved its learning for the `saves`th time; the checkpoint."""
    write = optimise_block.write_learning
    count = [0]

    def write_and_stop(*arguments):
        write(*arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optimise_block, "write_learning", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            quantize(folder)
    return list_arguments(folder).scratch / "learning.safetensors"


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_an_interrupted_block_goes_on_and_ends_with_the_same_bytes(folder, finished, monkeypatch, caplog, saves):
    interrupt(folder, monkeypatch, saves)
    with caplog.at_level(logging.INFO, "workflow_scripts"):
        path = quantize(folder)
    assert f"resuming mm_00 after {2 * saves} iterations" in caplog.text
    assert hash_tree(path.parent) == hash_tree(finished["adaround"].parent)


@pytest.mark.parametrize("saves", [2, 3, 5])
def test_so_does_one_that_learns_in_two_phases(folder, captured, monkeypatch, tmp_path, saves):
    monkeypatch.setitem(SETTINGS, "reconstruction", "separate")
    monkeypatch.setitem(SETTINGS, "adaround_drop", 0.5)
    interrupt(folder, monkeypatch, saves)
    other = tmp_path / "undisturbed"
    shutil.copytree(captured / "block_inputs.zarr", other / "block_inputs.zarr")
    assert hash_tree(quantize(folder).parent) == hash_tree(quantize(other).parent)


def test_a_checkpoint_of_other_parameters_is_not_used_and_that_is_said(folder, finished, monkeypatch, caplog):
    monkeypatch.setitem(SETTINGS, "adaround_rate", 0.5)
    interrupt(folder, monkeypatch)
    monkeypatch.setitem(SETTINGS, "adaround_rate", 0.03)
    with caplog.at_level(logging.INFO, "workflow_scripts"):
        path = quantize(folder)
    assert "learning.safetensors was made with other parameters or inputs; it is not used, and mm_00 starts over" in (
        caplog.text
    )
    assert hash_tree(path.parent) == hash_tree(finished["adaround"].parent)


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_a_damaged_checkpoint_is_not_used_and_that_is_said(folder, finished, monkeypatch, caplog, length):
    checkpoint = interrupt(folder, monkeypatch)
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    with caplog.at_level(logging.INFO, "workflow_scripts"):
        path = quantize(folder)
    assert re.search(r"learning\.safetensors is damaged.*; it is not used, and mm_00 starts over", caplog.text)
    assert hash_tree(path.parent) == hash_tree(finished["adaround"].parent)


@pytest.mark.parametrize("moments", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_a_worker_killed_at_any_moment_ends_bit_identical(folder, moments):
    configure(folder)
    command = [sys.executable, "-m", "tests.kill_block", str(folder), str(moments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def start(folder: Path) -> subprocess.Popen:
    """The entry in a process of its own."""
    named = list_arguments(folder)
    options = ["--params", named.params, "--scratch", named.scratch, "--out", named.out, "--inputs", *named.inputs]
    return subprocess.Popen(
        [sys.executable, "-m", "workflow_scripts.optimise_block", *map(str, options)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_a_process_stopped_by_the_keyboard_says_so_and_goes_on_where_it_was(
    folder, captured, tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(SETTINGS, "adaround_iterations", 60)
    configure(folder)
    process, checkpoint = start(folder), list_arguments(folder).scratch / "learning.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "interrupted; the next run goes on from the last checkpoint" in said
    assert "Traceback" not in said
    with caplog.at_level(logging.INFO, "workflow_scripts"):
        path = quantize(folder)
    assert "resuming mm_00 after" in caplog.text
    other = tmp_path / "undisturbed"
    shutil.copytree(captured / "block_inputs.zarr", other / "block_inputs.zarr")
    assert hash_tree(path.parent) == hash_tree(quantize(other).parent)


def test_learning_that_breaks_stops_with_iteration_and_layer_and_keeps_its_checkpoint(folder):
    with pytest.raises(UserError, match=r"mm_00: iteration \d+ gives a value that is not finite, first in \w+"):
        quantize(folder, adaround_step_rate=1e30, adaround_iterations=40, adaround_checkpoint_every=1)
    assert not list_arguments(folder).out.exists()
