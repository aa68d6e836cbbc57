"""The packed checkpoint is one MLX loads by itself."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from workflow_scripts import plan
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.numerics import weight_grid
from workflow_scripts.quantize_weights import choose_grids
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file, read_json
from workflow_scripts.store.tensors import read_tensors


@pytest.fixture(scope="module")
def original():
    return dict(tree_flatten(find_model("embedded").load_transformer().parameters()))


def load_plainly(folder):
    """The checkpoint by `nn.quantize` and `load_weights` alone."""
    config = read_json(folder / "config.json")
    model = find_model("embedded").load_transformer()
    nn.quantize(model, class_predicate=lambda path, _: config["quantization"].get(path, False))
    model.load_weights(str(folder / config["model"]["file"]), strict=True)
    return model


def test_it_loads_without_this_project_and_gives_the_same_weights(finished, original):
    config = read_json(finished.quantized / "config.json")
    modules = dict(load_plainly(finished.quantized).named_modules())
    tensors = read_tensors(finished.quantized / "model.safetensors")
    assert len(config["quantization"]) == 68
    for path, how in config["quantization"].items():
        module = modules[path]
        by_mlx = mx.dequantize(
            module.weight,
            module.scales,
            module.biases,
            group_size=how["group_size"],
            bits=how["bits"],
            dtype=mx.float32,
        )
        grid = weight_grid.Grid(tensors[f"{path}.scales"], tensors[f"{path}.biases"], how["bits"], how["group_size"])
        codes = weight_grid.round_to_grid(np.array(original[f"{path}.weight"]), grid)
        scale = np.abs(np.array(original[f"{path}.weight"])).max()
        np.testing.assert_allclose(np.array(by_mlx), weight_grid.dequantize(codes, grid), atol=1e-3 * scale)
        np.testing.assert_array_equal(weight_grid.unpack_codes(tensors[f"{path}.weight"], how["bits"]), codes)


def test_a_loaded_layer_computes_with_the_dequantized_weight(finished):
    path = "multimodal_transformer_blocks.0.image_transformer_block.mlp.fc1"
    module = dict(load_plainly(finished.quantized).named_modules())[path]
    tensors = read_tensors(finished.quantized / "model.safetensors")
    grid = weight_grid.Grid(tensors[f"{path}.scales"], tensors[f"{path}.biases"], 4, 64)
    weight = weight_grid.dequantize(weight_grid.unpack_codes(tensors[f"{path}.weight"], 4), grid)
    x = np.random.default_rng(0).standard_normal((3, weight.shape[1])).astype(np.float32)
    expected = x @ weight.T + tensors[f"{path}.bias"].astype(np.float32)
    np.testing.assert_allclose(np.array(module(mx.array(x))), expected, atol=2e-3 * np.abs(expected).max())


def test_what_no_rule_names_is_kept_as_half_precision(finished, original):
    tensors = read_tensors(finished.quantized / "model.safetensors")
    np.testing.assert_array_equal(
        tensors["context_embedder.weight"], np.array(original["context_embedder.weight"].astype(mx.float16))
    )
    assert {str(value.dtype) for value in tensors.values()} == {"float16", "uint32"}


def test_sizes_are_those_of_the_file(finished):
    config = read_json(finished.quantized / "config.json")
    path = finished.quantized / "model.safetensors"
    assert config["model"] == {"file": path.name, "sha256": hash_file(path), "bytes": path.stat().st_size}
    layers = {layer.path: layer.name for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])}
    tensors = read_tensors(path)
    counts = {4: 0, 8: 0}
    for place, how in config["quantization"].items():
        counts[how["bits"]] += tensors[f"{place}.weight"].size * 32 // how["bits"]
        assert ("adaLN" in layers[place]) == (how["bits"] == 8)
    # fp16 scale and bias for every 64 weights: half a bit each
    expected = (4.5 * counts[4] + 8.5 * counts[8]) / sum(counts.values())
    assert config["bits_per_weight"] == pytest.approx(expected)
    assert config["quantized_weights"] == sum(counts.values())


def test_a_second_run_gives_the_same_bytes(finished, study):
    study.quantize()
    for name in ("model.safetensors", "config.json"):
        assert (study.quantized / name).read_bytes() == (finished.quantized / name).read_bytes()


def test_the_last_matching_rule_holds(study):
    rules = [
        {"layers": "mm_*", "bits": 4, "group_size": 32},
        {"layers": "mm_01.*", "bits": 16},
        {"layers": "mm_01.image.mlp.fc1", "bits": 3, "group_size": 128},
    ]
    study.configure(weights=rules)
    study.quantize()
    found = read_json(study.quantized / "config.json")["quantization"]
    block = "multimodal_transformer_blocks.1.image_transformer_block"
    assert found[f"{block}.mlp.fc1"] == {"bits": 3, "group_size": 128, "mode": "affine"}
    assert f"{block}.mlp.fc2" not in found
    assert load_plainly(study.quantized) is not None


def test_layers_whose_width_does_not_divide_are_named(study):
    study.configure(weights=[{"layers": "*", "bits": 4, "group_size": 64}])
    layers = list_linears(*plan.MODEL_BLOCKS["embedded"])
    weights = {f"{layer.path}.weight": mx.zeros((8, 96 if "fc2" in layer.name else 64)) for layer in layers}
    with pytest.raises(UserError, match=r"mm_00.image.mlp.fc2 \(96 inputs, group size 64\), mm_00.text.mlp.fc2"):
        choose_grids(layers, weights, read_json(study.params("quantize_weights"))["weights"])
