"""Sizes of the compared variants count everything as stored."""

import pytest

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.variant_sizes import measure_variant
from taqmlx.models.catalogue import find_model
from taqmlx.planning.layers import list_linears
from taqmlx.store.block_file import read_block
from taqmlx.store.packed_checkpoint import read_packed


@pytest.fixture(scope="module")
def transformer():
    return find_model("embedded").load_transformer()


def test_full_precision_counts_16_bits_per_weight(transformer):
    measured = measure_variant(transformer, "none", [])
    count = sum(resolve_module(transformer, layer.path)["weight"].size for layer in list_linears(5))
    assert measured == {
        "weights": count,
        "bytes": 2 * count,
        "bits_per_weight": 16.0,
        "quantized_layers": 0,
        "activation_bits": [16],
        "precision": "W16A16",
    }


def test_packed_weights_count_as_stored_in_the_file(transformer, quantized_study):
    measured = measure_variant(transformer, "weights", [quantized_study.quantized / "model.safetensors"])
    checkpoint = read_packed(quantized_study.quantized)
    paths = checkpoint.config["quantization"]
    stored = sum(
        array.nbytes
        for key, array in checkpoint.tensors.items()
        for path in paths
        if key in (f"{path}.weight", f"{path}.scales", f"{path}.biases")
    )
    rest = sum(
        2 * resolve_module(transformer, layer.path)["weight"].size
        for layer in list_linears(5)
        if layer.path not in paths
    )
    assert measured["bytes"] == stored + rest
    assert measured["quantized_layers"] == len(paths)
    assert measured["activation_bits"] == [16]


def test_a_config_adds_the_bits_of_layer_inputs(transformer, quantized_study):
    weights = measure_variant(transformer, "weights", [quantized_study.quantized / "model.safetensors"])
    config = measure_variant(transformer, "quant_config", [quantized_study.quant_config])
    assert config == weights | {
        "activation_bits": [8, 16],
        "precision": "W4A8",
    }  # adaLN layers read what is not rounded


def test_blocks_count_as_when_packed(transformer, quantized_study):
    files = sorted((quantized_study.folder / "adaround").glob("mm_*.safetensors"))
    blocks = measure_variant(transformer, "blocks", files)
    packed = measure_variant(transformer, "weights", [quantized_study.quantized / "model.safetensors"])
    final = read_packed(quantized_study.quantized).tensors
    path = "final_layer.adaLN_modulation.layers.1"  # in the file of the layers of no block
    saved = 2 * resolve_module(transformer, path)["weight"].size
    saved -= sum(final[f"{path}.{part}"].nbytes for part in ("weight", "scales", "biases"))
    assert blocks["bytes"] - packed["bytes"] == saved
    assert blocks["quantized_layers"] == sum(len(read_block(file).weights) for file in files)
