"""Linears over a packed checkpoint with migrated layers agree with its weights in NumPy."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.packed import bind_packed, list_packed, name_bits, restore_weight
from taqmlx.numerics.weight_grid import choose_grid, dequantize, pack_codes, round_to_grid
from taqmlx.planning.bit_choices import stored_bits
from taqmlx.planning.layers import list_linears
from taqmlx.store.packed_checkpoint import PackedCheckpoint
from taqmlx.store.quant_config import QuantConfig

LAYERS = list_linears(5)
BY_NAME = {layer.name: layer for layer in LAYERS}
FC1, FC2, ADALN, FINAL = (
    BY_NAME[name]
    for name in ("mm_01.text.mlp.fc1", "mm_01.text.mlp.fc2", "mm_01.text.adaLN_modulation", "final_layer.linear")
)
BITS = {FC1.name: 4, FC2.name: 3, ADALN.name: 7}
MIGRATION = np.array([5, 3] + [1] * 510, np.int32)
SHIFT = np.linspace(-1, 1, 512, dtype=np.float32)
STEPS = np.array([0.3, 0.1], np.float32)


@pytest.fixture(scope="module")
def grids(transformer):
    """The three quantized layers' dequantized weights W', the migrated one's with its migration in the columns."""
    modules, packed = dict(transformer.named_modules()), {}
    for name, bits in BITS.items():
        weight = np.array(modules[BY_NAME[name].path].weight) * (MIGRATION if name == FC2.name else 1)
        grid = choose_grid(weight, {"bits": bits, "group_size": 64, "symmetric": False, "range": "absmax"})
        packed[name] = grid, round_to_grid(weight, grid)
    return packed


@pytest.fixture(scope="module")
def checkpoint(transformer, grids):
    """The biases are learned: they are not the model's."""
    modules = dict(transformer.named_modules())
    biases = {layer.path: modules[layer.path].get("bias") for layer in LAYERS}
    tensors = {f"{path}.bias": np.array(bias) + 0.25 for path, bias in biases.items() if bias is not None}
    tensors[f"{FC2.path}.migration"] = MIGRATION
    for name, (grid, codes) in grids.items():
        parts = {"weight": pack_codes(codes, grid.bits), "scales": grid.scales, "biases": grid.biases}
        tensors |= {f"{BY_NAME[name].path}.{part}": array for part, array in parts.items()}
    quantization = {
        BY_NAME[name].path: {"bits": stored_bits(bits), "group_size": 64, "mode": "affine"}
        for name, bits in BITS.items()
    }
    return PackedCheckpoint({"quantization": quantization, "origin": {}}, tensors, Path("model.safetensors"))


@pytest.fixture(scope="module")
def config():
    none = {"policy": "none", "bits": 16}
    entries = {layer.name: {"activation": none} for layer in LAYERS}
    table = {"policy": "lut", "bits": 8, "steps": "steps", "shift": "shift", "migration": "migration"}
    entries[FC2.name] = {"activation": table}
    arrays = {"steps": STEPS, "shift": SHIFT, "migration": MIGRATION}
    return QuantConfig({"sigmas": [1.0, 0.1], "layers": entries}, arrays, Path("model.safetensors"))


def read(layer):
    """Something to read for a layer (3, in)."""
    width = 512 if layer is FC2 else 128
    return np.random.default_rng(1).standard_normal((3, width)).astype(np.float32)


def compute(linears, layer, sigma=0.9):
    return np.array(linears.at(sigma)(layer.name, mx.array(read(layer))))


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, atol=5e-6 * np.abs(expected).max())


def test_without_a_config_the_input_is_divided_by_the_migration_only(transformer, checkpoint, grids):
    linears = bind_packed(transformer, LAYERS, LAYERS, checkpoint, None, "nearest")
    for name, (grid, codes) in grids.items():
        layer = BY_NAME[name]
        x = read(layer) / (MIGRATION if layer is FC2 else 1)
        bias = checkpoint.tensors[f"{layer.path}.bias"]
        assert_near(compute(linears, layer), x @ dequantize(codes, grid).T + bias)


def test_with_a_config_inputs_are_quantized(transformer, checkpoint, config, grids):
    linears = bind_packed(transformer, LAYERS, LAYERS, checkpoint, config, "nearest")
    weight = dequantize(grids[FC2.name][1], grids[FC2.name][0])
    bias = checkpoint.tensors[f"{FC2.path}.bias"]
    for sigma, step in ((0.9, STEPS[0]), (0.2, STEPS[1])):
        codes = np.clip(np.rint((read(FC2) - SHIFT) / MIGRATION / step), -127, 127)
        assert_near(compute(linears, FC2, sigma), (codes * step + SHIFT / MIGRATION) @ weight.T + bias)


def test_a_config_can_have_bits_per_noise_level(transformer, checkpoint, config, grids):
    activation = config.layers[FC2.name]["activation"] | {"bits": [4, 8]}
    layers = config.layers | {FC2.name: {"activation": activation}}
    tiers = QuantConfig(config.content | {"layers": layers}, config.arrays, config.weights)
    linears = bind_packed(transformer, LAYERS, LAYERS, checkpoint, tiers, "nearest")
    weight = dequantize(grids[FC2.name][1], grids[FC2.name][0])
    bias = checkpoint.tensors[f"{FC2.path}.bias"]
    for sigma, step, largest in ((0.9, STEPS[0], 7), (0.2, STEPS[1], 127)):
        codes = np.clip(np.rint((read(FC2) - SHIFT) / MIGRATION / step), -largest, largest)
        assert_near(compute(linears, FC2, sigma), (codes * step + SHIFT / MIGRATION) @ weight.T + bias)


@pytest.mark.parametrize(
    ("bits", "name"),
    [([8, 8, 4], "8"), ([], "16"), ([16, 16, 8], "16"), ([8, (4, 6), 16], "4-8"), ([(4, 6), 16], "4-6")],
)
def test_bits_are_described_by_one_number_or_a_range(bits, name):
    assert name_bits(bits) == name


def test_other_layers_stay_in_full_precision(transformer, checkpoint, config):
    exact = bind_linears(transformer)
    chosen = bind_packed(transformer, LAYERS, [FC1], checkpoint, config, "nearest")
    for layer in (FC2, ADALN, FINAL):
        np.testing.assert_array_equal(compute(chosen, layer), np.array(exact(layer.name, mx.array(read(layer)))))
    assert not np.array_equal(compute(chosen, FC1), np.array(exact(FC1.name, mx.array(read(FC1)))))


def test_packed_layers_are_listed(checkpoint):
    assert {layer.name for layer in list_packed(LAYERS, checkpoint)} == set(BITS)
    assert list_packed([FC1, FINAL], checkpoint) == [FC1]


def test_a_restored_weight_has_no_migration(transformer, checkpoint, grids):
    """It is off by half a level at most, the level divided by the migration."""
    modules = dict(transformer.named_modules())
    for name, (grid, _) in grids.items():
        levels = np.repeat(grid.scales.astype(np.float32), 64, axis=1) / (MIGRATION if name == FC2.name else 1)
        difference = restore_weight(checkpoint, BY_NAME[name].path) - np.array(modules[BY_NAME[name].path].weight)
        assert np.all(np.abs(difference) <= 0.51 * levels)
