"""A block file holds codes, grids and input quantizers, and is read only if it matches its seal."""

import numpy as np
import pytest

from taqmlx.numerics.input_quantizer import ARRAYS, InputQuantizer
from taqmlx.numerics.weight_grid import choose_grid, dequantize, pack_codes
from taqmlx.store.block_file import LayerWeight, digest_codes, read_block, write_block
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.tensors import read_tensors

TABLE, STATIC = ({"bits": bits, "policy": policy} for bits, policy in ((8, "lut"), (6, "static")))
ACTIVATIONS = {"2": TABLE, "3": STATIC, "4": TABLE, "16": TABLE}
PARAMETERS = {
    "stage": "optimise_block",
    "block": "mm_00",
    "layers": {f"mm_00.image.{name}": {"activation": rule} for name, rule in ACTIVATIONS.items()},
}
ORIGIN = {"model": {"a": "00"}}
SIGMAS = np.array([1.0, 0.5, 0.25], np.float32)
# layer name: bits and group size
LAYERS = {
    f"mm_00.image.{bits}": (bits, size) for bits, size in zip(range(2, 9), [32, 64, 128, "row"] * 2, strict=False)
}


@pytest.fixture
def weights():
    """Layers of every width, with codes that are not the nearest."""
    rng, layers = np.random.default_rng(0), {}
    for name, (bits, size) in LAYERS.items():
        rule = {"bits": bits, "group_size": size, "symmetric": bits % 2 == 0, "range": "absmax"}
        grid = choose_grid(rng.standard_normal((6, 256)).astype(np.float32), rule)
        layers[name] = LayerWeight(grid, rng.integers(0, 2**bits, (6, 256)).astype(np.uint8))
    return layers


@pytest.fixture
def inputs():
    steps, shift = np.array([0.1, 0.2, 0.3], np.float32), np.arange(256, dtype=np.float32)
    return {
        "mm_00.image.2": InputQuantizer("lut", 8, steps),
        "mm_00.image.3": InputQuantizer("static", 6, steps[:1], shift),
        "mm_00.image.4": InputQuantizer("lut", 8, steps, shift, np.arange(1, 257, dtype=np.int32)),
        # Its weight is left as it is, and what it reads still has a grid.
        "mm_00.image.16": InputQuantizer("lut", 8, steps),
    }


@pytest.fixture
def path(tmp_path, weights, inputs):
    path = tmp_path / "adaround" / "mm_00.safetensors"
    write_block(path, weights, inputs, SIGMAS, PARAMETERS, ORIGIN)
    return path


def test_everything_is_read_as_written(path, weights, inputs):
    block = read_block(path)
    assert block.weights.keys() == weights.keys()
    for name, layer in weights.items():
        found = block.weights[name]
        assert (found.grid.bits, found.grid.group_size) == (layer.grid.bits, layer.grid.group_size)
        np.testing.assert_array_equal(found.codes, layer.codes)
        np.testing.assert_array_equal(dequantize(found.codes, found.grid), dequantize(layer.codes, layer.grid))
    assert block.inputs.keys() == inputs.keys()
    for name, quantizer in inputs.items():
        assert block.inputs[name].identity == quantizer.identity
        for key in ARRAYS:
            np.testing.assert_array_equal(getattr(block.inputs[name], key), getattr(quantizer, key))
            assert getattr(getattr(quantizer, key), "dtype", None) == getattr(
                getattr(block.inputs[name], key), "dtype", None
            )
    np.testing.assert_array_equal(block.sigmas, SIGMAS)
    assert (block.seal["parameters"], block.seal["inputs"]) == (PARAMETERS, ORIGIN)


def test_the_seal_has_a_digest_of_each_packed_weight(path, weights):
    codes = read_json(path.with_suffix(".json"))["sha256"]["codes"]
    assert codes == {name: digest_codes(pack_codes(w.codes, w.grid.bits)) for name, w in weights.items()}
    assert len(set(codes.values())) == len(weights)
    assert codes == {name: digest_codes(read_tensors(path)[f"{name}.weight"]) for name in weights}


def test_equal_work_gives_equal_bytes(path, tmp_path, weights, inputs):
    again = tmp_path / "again" / "mm_00.safetensors"
    write_block(again, weights, inputs, SIGMAS, PARAMETERS, ORIGIN)
    for suffix in (".safetensors", ".json"):
        assert again.with_suffix(suffix).read_bytes() == path.with_suffix(suffix).read_bytes()


def test_an_unfinished_block_is_named(path):
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"mm_00.json is missing"):
        read_block(path)


def test_a_missing_file_is_named(path):
    path.unlink()
    with pytest.raises(UserError, match=r"mm_00.safetensors is missing"):
        read_block(path)


@pytest.mark.parametrize(("place", "words"), [(-1, "does not match .*"), (0, "is damaged")])
def test_a_changed_byte_is_found(path, place, words):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"mm_00.safetensors {words}"):
        read_block(path)


def test_the_file_of_another_block_is_rejected(path, tmp_path, weights):
    other = tmp_path / "other.safetensors"
    write_block(other, weights, {}, SIGMAS, PARAMETERS, ORIGIN)
    path.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match=r"does not match .*"):
        read_block(path)


def test_an_input_without_stored_steps_is_found_by_its_rule(tmp_path, weights):
    names = ("none", "dynamic", "lut")
    rules = ({"bits": 16}, {"bits": 8, "policy": "dynamic", "group_size": 32}, TABLE)
    layers = {name: {"activation": rule} for name, rule in zip(names, rules, strict=True)}
    write_block(tmp_path / "mm_00.safetensors", weights, {}, SIGMAS, PARAMETERS | {"layers": layers}, ORIGIN)
    block = read_block(tmp_path / "mm_00.safetensors")
    assert block.find_input("none").identity == InputQuantizer().identity
    assert block.find_input("dynamic").identity == InputQuantizer("dynamic", 8, group_size=32).identity
    with pytest.raises(UserError, match=r"lut: the block file has no step sizes for a lut policy; run optimise_block"):
        block.find_input("lut")
