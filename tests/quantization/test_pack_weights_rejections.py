"""Blocks and weights that cannot be packed are rejected by name, and nothing is written."""

import shutil

import mlx.core as mx
import pytest

from taqmlx.mmdit import packing
from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.seal import make_seal, read_file_seal
from tools.small_results.study import write_rounded_blocks
from workflow_scripts.weights import pack_weights

LAYERS = list_linears(*plan.MODEL_BLOCKS["embedded"])
FC1 = "mm_01.image.mlp.fc1"


@pytest.fixture
def paths(study):
    """The block files of `study`."""
    return write_rounded_blocks(study.folder / "adaround", read_json(study.params("optimise_block")))


def seal_again(path, change):
    """Change a sealed block's parameters or inputs, as another run would have made them."""
    seal = read_file_seal(path.with_suffix(".json"))
    change(seal)
    write_json(path.with_suffix(".json"), make_seal(seal["parameters"], seal["inputs"], seal["sha256"]))


def widen_fc1(seal):
    seal["parameters"]["layers"][FC1]["weight"] |= {"bits": 5}


def change_model(seal):
    seal["inputs"]["model"]["transformer.safetensors"] = "0" * 64


def drop_fc1(seal):
    del seal["sha256"]["codes"][FC1]


def call_it_another(seal):
    seal["parameters"]["block"] = "mm_00"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (widen_fc1, f"mm_01.safetensors was made with other rules: {FC1}: bits: 5 there, 4 in the configuration"),
        (change_model, "mm_01.safetensors was made with other inputs"),
        (drop_fc1, f"mm_01.safetensors lacks the layer {FC1}"),
        (call_it_another, "are both the block mm_00"),
    ],
)
def test_a_foreign_block_is_named_with_the_difference(study, paths, change, words):
    seal_again(paths[1], change)
    with pytest.raises(UserError, match=words):
        study.pack(paths)
    assert not study.quantized.exists()


def test_a_block_with_a_layer_outside_the_rules_is_rejected(study, paths):
    study.configure(weights=[{"layers": "mm_*", "bits": 4}, {"layers": "*adaLN_modulation", "bits": 16}])
    with pytest.raises(UserError, match=r"has, against the rules, the layer mm_00.image.adaLN_modulation"):
        study.pack(paths)


def test_missing_blocks_are_named(study, paths):
    with pytest.raises(UserError, match="no file of mm_01, mm_03 is named"):
        study.pack([paths[0], paths[2], paths[4], paths[5]])
    with pytest.raises(UserError, match="no file of shared is named"):
        study.pack(paths[:5])


def test_the_distilled_model_must_be_the_only_file(study, paths):
    seal = read_file_seal(paths[5].with_suffix(".json"))
    layers = {
        name: rules
        for path in paths
        for name, rules in read_file_seal(path.with_suffix(".json"))["parameters"]["layers"].items()
    }
    codes = {
        name: digest
        for path in paths
        for name, digest in read_file_seal(path.with_suffix(".json"))["sha256"]["codes"].items()
    }
    whole = study.folder / "distilled.safetensors"
    shutil.copy(paths[5], whole)
    parameters = seal["parameters"] | {"stage": "distil", "block": plan.WHOLE, "layers": layers}
    write_json(whole.with_suffix(".json"), make_seal(parameters, seal["inputs"], {"codes": codes}))
    with pytest.raises(UserError, match=r"distilled\.safetensors has all layers; name it alone"):
        study.pack([*paths, whole])


def test_a_damaged_block_is_named(study, paths):
    shutil.copy(paths[0], paths[2])
    with pytest.raises(UserError, match=r"mm_02.safetensors does not match .*mm_02.json"):
        study.pack(paths)


def test_layers_that_the_group_size_does_not_divide_are_named():
    weights = {f"{layer.path}.weight": mx.zeros((8, 96 if "fc2" in layer.name else 64)) for layer in LAYERS}
    uniform, rows = ({layer.name: {"bits": 4, "group_size": size} for layer in LAYERS} for size in (64, "row"))
    with pytest.raises(UserError, match=r"mm_00.image.mlp.fc2 \(96 inputs, group size 64\), mm_00.text.mlp.fc2"):
        pack_weights.check_widths(LAYERS, weights, uniform)
    pack_weights.check_widths(LAYERS, weights, rows)


def test_weights_beyond_fp16_are_named():
    with pytest.raises(UserError, match=r"final_layer.linear.bias has values that fp16 cannot hold"):
        packing.convert_weight("final_layer.linear.bias", mx.array([1e6]), "float16")
