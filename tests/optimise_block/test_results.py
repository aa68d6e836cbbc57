"""A block's job writes the best of the tried roundings, by its rules."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.planning import plan
from taqmlx.planning.block_plan import select_block
from taqmlx.reconstruction.block_assembly import split_points
from taqmlx.reconstruction.block_linears import bind_blocks
from taqmlx.store.block_file import digest_codes, read_block
from taqmlx.store.block_inputs import open_block_inputs
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, write_json
from taqmlx.store.mixed_bits import FORMAT
from taqmlx.store.seal import read_group_seal
from taqmlx.store.tensors import read_tensors
from tests.optimise_block.conftest import TRIED, configure, quantize, read_report, select
from tests.support.kill_block import list_arguments
from tools.small_results import study as small
from tools.small_results.shards import hash_tree
from workflow_scripts.blocks import optimise_block


@pytest.mark.parametrize("engine", TRIED)
def test_the_report_has_the_error_of_every_rounding_and_the_best_is_chosen(finished, engine):
    report = read_report(finished[engine])
    assert report["block"] == "mm_00"
    assert report["rows"] == {"training": 16, "held_out": 8}
    assert sorted(report["errors"]) == sorted(TRIED[engine])
    sums = {name: sum(error["quantized_inputs"].values()) for name, error in report["errors"].items()}
    assert report["chosen"] == min(sums, key=sums.get)
    assert sums[report["chosen"]] <= sums["rtn"]
    for error in report["errors"].values():
        assert error.keys() == {"quantized_inputs", "full_precision_inputs"}
        assert all(set(streams) == {"image", "text"} for streams in error.values())
        assert all(0 < value < 1 for streams in error.values() for value in streams.values())


def test_every_engine_gives_the_simpler_ones_the_same_errors(finished, captured, tmp_path):
    reports = {engine: read_report(path)["errors"] for engine, path in finished.items()}
    assert reports["gptq"] == {name: reports["adaround"][name] for name in TRIED["gptq"]}
    # The engine rtn rounds adaLN layers by RTN, which affects every error of the block; without them the errors agree.
    unrounded = [{"layers": "mm_*", "bits": 4}, {"layers": "*adaLN_modulation", "bits": 16}]
    found = []
    for engine in ("rtn", "gptq"):
        shutil.copytree(captured / "block_inputs.zarr", tmp_path / engine / "block_inputs.zarr")
        found.append(read_report(quantize(tmp_path / engine, engine=engine, weights=unrounded))["errors"]["rtn"])
    assert found[0] == found[1]


def test_a_short_run_reports_the_loss_of_every_iteration(finished):
    loss = read_report(finished["adaround"])["loss"]
    assert (loss["every"], len(loss["values"])) == (1, 6)
    assert read_report(finished["rtn"])["loss"]["values"] == []


def test_rtn_gives_the_nearest_codes(finished, weights):
    file = read_block(finished["rtn"])
    assert len(file.weights) == 14
    for name, layer in file.weights.items():
        grid = choose_grid(weights[name], file.seal["parameters"]["layers"][name]["weight"])
        np.testing.assert_array_equal(layer.grid.scales, grid.scales)
        np.testing.assert_array_equal(layer.codes, round_to_grid(weights[name], grid))
    assert all(not layer["moved_from_nearest"] for layer in read_report(finished["rtn"])["layers"].values())


def test_adaln_weights_have_a_smaller_held_out_error_than_rtn(finished, captured, weights):
    """For every engine except rtn, which rounds them by RTN."""
    files = {engine: read_block(path) for engine, path in finished.items()}
    inputs, parameters = open_block_inputs(sorted((captured / "block_inputs.zarr").iterdir())), select("optimise_block")
    split = split_points(inputs.points, inputs.prompt_indices, parameters["held_out"], parameters["seed"])
    read = inputs.modulation[split[1]]
    for stream in ("image", "text"):
        name = f"mm_00.{stream}.adaLN_modulation"
        layers = {engine: file.weights[name] for engine, file in files.items()}
        assert {layer.grid.bits for layer in layers.values()} == {8}
        np.testing.assert_array_equal(layers["gptq"].codes, layers["adaround"].codes)
        errors = {
            engine: np.square(read @ (dequantize(layer.codes, layer.grid) - weights[name]).T).sum()
            for engine, layer in layers.items()
        }
        assert errors["gptq"] < 0.5 * errors["rtn"]


def test_inputs_have_a_step_size_per_noise_level_and_a_post_gelu_shift(finished):
    file = read_block(finished["adaround"])
    assert file.sigmas.tolist() == small.SIGMAS
    assert len(file.inputs) == 12
    for name, layer in file.inputs.items():
        assert layer.steps.shape == (3,)
        assert (layer.steps > 0).all()
        assert (layer.shift is not None) == name.endswith("fc2")
        assert layer.migration is None


def test_the_seal_names_the_inputs_of_the_block(finished, captured):
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


def test_no_other_file_remains(finished):
    assert sorted(path.name for path in finished["adaround"].parent.iterdir()) == [
        "mm_00.json",
        "mm_00.report.json",
        "mm_00.safetensors",
    ]
    assert not list_arguments(finished["adaround"].parent.parent).scratch.exists()


def test_the_order_of_the_shards_does_not_matter(folder, finished):
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
def test_rules_apply_to_the_layers_of_their_pattern(folder, engine):
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


def test_ranges_that_are_weighted_by_the_inputs_lower_the_error_of_the_block(folder):
    errors = {}
    for span in ("weighted", "search"):
        path = quantize(folder, engine="rtn", replace=True, weights=[{"layers": "*", "bits": 3, "range": span}])
        errors[span] = read_report(path)["errors"]["rtn"]["full_precision_inputs"]
    assert sum(errors["weighted"].values()) < sum(errors["search"].values())


@pytest.mark.parametrize("engine", TRIED)
def test_with_unquantized_weights_only_inputs_are_quantized(folder, engine):
    path = quantize(folder, engine=engine, weights=[{"layers": "*", "bits": 16}])
    file = read_block(path)
    assert file.weights == {}
    assert len(file.inputs) == 12
    errors = read_report(path)["errors"]["rtn"]
    assert all(value < 1e-5 for value in errors["full_precision_inputs"].values())
    assert all(value > 1e-5 for value in errors["quantized_inputs"].values())


@pytest.mark.parametrize("engine", TRIED)
def test_without_any_quantization_the_block_is_unchanged(folder, engine):
    nothing = [{"layers": "*", "bits": 16}]
    path = quantize(folder, engine=engine, weights=nothing, activations=nothing)
    file = read_block(path)
    assert (file.weights, file.inputs) == ({}, {})
    assert all(value < 1e-5 for value in read_report(path)["errors"]["rtn"]["quantized_inputs"].values())


@pytest.mark.parametrize(
    ("rule", "shape"), [({"policy": "static"}, (1,)), ({"policy": "lut"}, (3,)), ({"policy": "dynamic"}, None)]
)
def test_the_policy_decides_which_input_arrays_are_stored(folder, rule, shape):
    inputs = read_block(quantize(folder, engine="rtn", activations=[{"layers": "*", "bits": 8} | rule])).inputs
    own = {name: layer for name, layer in inputs.items() if "adaLN" not in name}
    assert len(own) == (12 if shape else 0)
    assert all(layer.steps.shape == shape for layer in own.values())


def test_a_migration_is_in_the_weights_and_stored_beside_them(folder, weights):
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


def test_searched_bits_replace_those_of_the_rules(folder):
    """And they are of what the block is made from: others are another block, so are those of no search."""
    layers = {"mm_00.image.mlp.fc1": {"bits": 3, "group_size": 128}, "mm_00.text.adaLN_modulation": {"bits": 5}}
    mixed = folder / "mixed_bits.json"
    write_json(mixed, FORMAT | {"mixed": {"layers": layers}})
    path = quantize(folder, mixed=mixed, engine="gptq", bits_per_weight=4.5)
    file = read_block(path)
    found = {name: (layer.grid.bits, layer.grid.group_size) for name, layer in file.weights.items()}
    assert found.pop("mm_00.image.mlp.fc1") == (3, 128)
    assert found.pop("mm_00.text.adaLN_modulation") == (5, 64)
    assert found.pop("mm_00.image.adaLN_modulation") == (8, 64)
    assert set(found.values()) == {(4, 64)}
    assert file.seal["parameters"]["layers"]["mm_00.image.mlp.fc1"]["weight"]["bits"] == 4
    assert file.seal["inputs"]["mixed_bits"] == plan.fingerprint(layers)
    write_json(mixed, FORMAT | {"mixed": {"layers": {}}})
    with pytest.raises(UserError, match=r"mm_00\.safetensors was made with other inputs \(mixed_bits"):
        quantize(folder, mixed=mixed, engine="gptq", bits_per_weight=4.5)


@pytest.mark.parametrize(("bits_per_weight", "searched"), [(4.5, False), (None, True)])
def test_a_search_is_required_with_a_configured_size_and_only_then(folder, bits_per_weight, searched):
    mixed = folder / "mixed_bits.json" if searched else None
    write_json(folder / "mixed_bits.json", FORMAT | {"mixed": {"layers": {}}})
    with pytest.raises(UserError, match=r"--mixed: mixed_bits\.json is needed where bits_per_weight is set"):
        quantize(folder, mixed=mixed, bits_per_weight=bits_per_weight)


@pytest.mark.parametrize("changes", [{"reconstruction": "separate"}, {"adaround_drop": 0.5}, {"adaround_batch": 1000}])
def test_the_other_settings_of_learning_run_to_the_end(folder, changes):
    report = read_report(quantize(folder, **changes))
    assert len(report["loss"]["values"]) == (12 if "reconstruction" in changes else 6)


# Finished work


def test_corrected_biases_are_stored_and_used(folder):
    plain = read_block(quantize(folder, engine="rtn"))
    file = read_block(quantize(folder, engine="rtn", bias_correction=True, replace=True))
    assert plain.biases == {}
    assert "bias_correction" not in plain.seal["parameters"]
    assert file.seal["parameters"]["bias_correction"] is True
    name = "mm_00.text.mlp.fc2"
    assert file.biases[name].dtype == np.float16
    transformer = find_model("embedded").load_transformer()
    x = mx.random.normal((3, 512), key=mx.random.key(0))
    outputs = [np.array(bind_blocks(transformer, [block]).at(1.0)(name, x)) for block in (plain, file)]
    bias = resolve_module(transformer, "multimodal_transformer_blocks.0.text_transformer_block.mlp.fc2")["bias"]
    np.testing.assert_allclose(
        outputs[1] - outputs[0], np.broadcast_to(file.biases[name] - np.array(bias), (3, 128)), atol=1e-3
    )
