"""A packed checkpoint is read only if it is intact and has this format; sizes are counted from its tensors."""

import numpy as np
import pytest

from taqmlx.numerics.weight_grid import pack_codes
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.store.packed_checkpoint import FORMAT, VERSION, measure_tensors, read_packed
from taqmlx.store.tensors import write_tensors

QUANTIZATION = {
    "a": {"bits": 3, "group_size": 32, "mode": "affine"},
    "b": {"bits": 8, "group_size": 64, "mode": "affine"},
}


@pytest.fixture
def tensors():
    """Two quantized layers of 4 x 64, one of them migrated, and a bias of 8."""
    found = {"a.bias": np.ones(8, np.float16)}
    for path, how in QUANTIZATION.items():
        grid = np.ones((4, 64 // how["group_size"]), np.float16)
        codes = np.zeros((4, 64), np.uint8)
        found |= {f"{path}.weight": pack_codes(codes, how["bits"]), f"{path}.scales": grid, f"{path}.biases": grid}
    return found | {"b.migration": np.ones(64, np.int32)}


@pytest.fixture
def folder(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {f"x.y.{key}": array for key, array in tensors.items()}, {"format": "mlx"})
    config = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": "embedded",
        "prefix": "x.y.",
        "quantization": QUANTIZATION,
        "nominal_bits": {"b": 7},
        "codes": {},
        "rounded": [],
        "migrated": ["b"],
        "model": {"file": path.name, "sha256": hash_file(path), "bytes": path.stat().st_size},
        "origin": {"model": {}, "blocks": {}},
    }
    write_json(tmp_path / "config.json", config | measure_tensors(tensors, QUANTIZATION))
    return tmp_path


def test_sizes_count_every_tensor_of_a_quantized_weight(tensors):
    # 256 weights of 3 bits with 8 grids of 32 bits, 256 of 8 with 4 of them and 64 numbers of 32 bits; 8 biases.
    stored = (256 * 3 + 8 * 32) + (256 * 8 + 4 * 32 + 64 * 32)
    assert measure_tensors(tensors, QUANTIZATION) == {
        "bits_per_weight": stored / 512,
        "quantized_weights": 512,
        "parameters": {"3": 256 / 520, "8": 256 / 520, "16": 8 / 520},
    }
    nothing = {"bits_per_weight": 16.0, "quantized_weights": 0, "parameters": {"16": 1.0}}
    assert measure_tensors({"a.weight": np.ones((2, 2), np.float16)}, {}) == nothing


def test_tensors_are_named_without_the_prefix(folder, tensors):
    packed = read_packed(folder)
    assert packed.tensors.keys() == tensors.keys()
    for key, array in tensors.items():
        np.testing.assert_array_equal(packed.tensors[key], array)
    assert packed.path == folder / "model.safetensors"
    assert packed.config == read_json(folder / "config.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "gguf"}, f"has format gguf, version {VERSION}, not {FORMAT}, {VERSION}"),
        ({"version": 1}, f"version 1, not {FORMAT}, {VERSION}"),
        ({"quantization": {"a": {"bits": 7, "group_size": 64, "mode": "affine"}}}, "quantization.a.bits: 7 is not one"),
        ({"model": {"file": "../x", "sha256": "0" * 64, "bytes": 1}}, "model.file"),
        ({"model": {"file": "x.safetensors", "sha256": "0" * 64, "bytes": 1}}, "x.safetensors is missing"),
    ],
)
def test_another_config_is_rejected(folder, changes, words):
    write_json(folder / "config.json", read_json(folder / "config.json") | changes)
    with pytest.raises(UserError, match=words):
        read_packed(folder)


def test_a_changed_file_is_rejected(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is not the file that .*config.json was made with"):
        read_packed(folder)
    path.write_bytes(content[:-8])
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        read_packed(folder)
