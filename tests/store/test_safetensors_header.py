"""A safetensors header is accepted only if every tensor has exactly its bytes."""

import json

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.safetensors_header import describe_names, find_coded, read_header
from taqmlx.store.tensors import write_tensors


def write(path, tensors, size, length=None):
    header = json.dumps(
        {name: dict(zip(("dtype", "shape", "data_offsets"), about, strict=True)) for name, about in tensors.items()}
    )
    path.write_bytes((length or len(header)).to_bytes(8, "little") + header.encode() + bytes(size))
    return path


def test_headers_of_safetensors_and_mlx_are_read(tmp_path):
    arrays = {
        "a": np.zeros((2, 3), np.float32),
        "b": np.zeros(5, np.float16),
        "empty": np.zeros((0, 4), np.uint8),
        "one": np.ones((), np.int64),
    }
    write_tensors(tmp_path / "x.safetensors", arrays, {"about": "x"})
    assert read_header(tmp_path / "x.safetensors")["a"] == ("F32", [2, 3])
    types = [mx.bool_, mx.int8, mx.uint16, mx.bfloat16, mx.float16, mx.uint32, mx.int64, mx.complex64]
    mx.save_safetensors(str(tmp_path / "y.safetensors"), {str(kind): mx.zeros((3, 5), dtype=kind) for kind in types})
    found = read_header(tmp_path / "y.safetensors")
    assert [about.shape for about in found.values()] == [[3, 5]] * len(types)
    assert set(find_coded(found).values()) == {"BOOL", "I8", "U16", "U32", "I64", "C64"}


@pytest.mark.parametrize(
    ("tensors", "size"),
    [
        ({"a": ("F32", [2, 2], [0, 8])}, 8),
        ({"a": ("F32", [2**40, 2**40], [0, 16])}, 16),
        ({"a": ("F32", [-2, -2], [0, 16])}, 16),
        ({"a": ("F99", [2], [0, 8])}, 8),
        ({"a": ("F32", ["2"], [0, 8])}, 8),
        ({"a": ("F32", [2], [8, 16])}, 16),
        ({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [4, 12])}, 12),
        ({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [0, 8])}, 8),
        ({"a": ("F32", [2], [0])}, 8),
        ({"a": ("F32", [2], "08")}, 8),
    ],
)
def test_wrong_sizes_and_offsets_are_rejected(tmp_path, tensors, size):
    with pytest.raises(UserError, match=r"x.safetensors \(\d+ bytes\) is not a complete safetensors file"):
        read_header(write(tmp_path / "x.safetensors", tensors, size))


@pytest.mark.parametrize("length", [1, 2**31, 2**63 - 1, 2**64 - 1])
def test_a_wrong_header_length_is_rejected(tmp_path, length):
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        read_header(write(tmp_path / "x.safetensors", {"a": ("U8", [1], [0, 1])}, 1, length))


def test_a_deeply_nested_header_is_rejected(tmp_path):
    text = b"[" * 100_000
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize(("kind", "size"), [("F4", 2), ("F6_E2M3", 3), ("F8_E8M0", 4), ("F8_E5M2", 4)])
def test_dtypes_of_few_bits_are_known(tmp_path, kind, size):
    found = read_header(write(tmp_path / "x.safetensors", {"a": (kind, [4], [0, size])}, size))
    assert find_coded(found) == {"a": kind}


def test_long_lists_of_names_end_with_a_count():
    assert describe_names(["a"]) == "a"
    assert describe_names(["a", "b", "c"]) == "a, b, c"
    assert describe_names(list("abcdefg")) == "a, b, c and 4 more"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"x.safetensors cannot be read"):
        read_header(tmp_path / "x.safetensors")
