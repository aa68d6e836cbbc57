"""Safetensors files are complete, readable by other programs, and their damage is named."""

from typing import ClassVar

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import save as torch_save

from taqmlx.numerics.stored_types import round_values
from taqmlx.store.errors import UserError
from taqmlx.store.tensors import read_metadata, read_tensors, stream_tensors, write_bfloat16, write_tensors


def test_arrays_are_read_as_written(tmp_path):
    arrays = {"b": np.arange(6.0).reshape(2, 3).T, "a/x": np.array([1, 2], np.int64), "c": np.zeros((0,), np.uint8)}
    write_tensors(tmp_path / "x.safetensors", arrays)
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array)
        assert found[key].dtype == array.dtype


def test_the_order_of_the_arrays_does_not_matter(tmp_path):
    arrays = {"a": np.zeros(3), "b": np.ones(2, np.float32)}
    write_tensors(tmp_path / "x.safetensors", arrays)
    write_tensors(tmp_path / "y.safetensors", dict(reversed(arrays.items())))
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_the_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_tensors(tmp_path / "x.safetensors", {"a": np.zeros(3)})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is missing"), (b"\x09\x00\x00\x00\x00\x00\x00\x00{", "is damaged")]
)
def test_an_unreadable_file_is_named(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"x.safetensors {words}"):
        read_tensors(path)


def test_dtypes_that_numpy_lacks_are_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(torch_save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}))
    with pytest.raises(UserError, match=r"x.safetensors has tensors of the type F8_E4M3"):
        read_tensors(tmp_path / "x.safetensors")


class TestBfloat16:
    """Arrays of bf16 values are stored as bf16."""

    ARRAYS: ClassVar = {
        "scales": round_values(np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32), "bfloat16"),
        "codes": np.arange(6, dtype=np.uint32).reshape(2, 3).T,
        "gain": np.ones((), np.float32),
        "none": np.zeros((0, 2), np.int32),
    }

    def test_they_come_back_as_they_were(self, tmp_path):
        path = tmp_path / "x.safetensors"
        write_bfloat16(path, self.ARRAYS, {"b": "2", "a": "1"})
        found = read_tensors(path)
        for key, array in self.ARRAYS.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].dtype == array.dtype
        assert read_metadata(path) == {"a": "1", "b": "2"}

    def test_mlx_reads_the_same(self, tmp_path):
        path = tmp_path / "x.safetensors"
        write_bfloat16(path, {key: self.ARRAYS[key] for key in ("scales", "codes", "gain")}, {"a": "1"})
        found, metadata = mx.load(str(path), return_metadata=True)
        assert {key: value.dtype for key, value in found.items()} == {
            "scales": mx.bfloat16,
            "codes": mx.uint32,
            "gain": mx.bfloat16,
        }
        assert metadata["a"] == "1"
        for key, value in found.items():
            np.testing.assert_array_equal(np.array(value.astype(mx.float32)), self.ARRAYS[key].astype(np.float32))

    def test_the_order_of_arrays_and_metadata_does_not_show(self, tmp_path):
        write_bfloat16(tmp_path / "x.safetensors", self.ARRAYS, {"a": "1", "b": "2"})
        write_bfloat16(tmp_path / "y.safetensors", dict(reversed(self.ARRAYS.items())), {"b": "2", "a": "1"})
        assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()

    def test_a_value_that_bf16_does_not_have_leaves_no_file(self, tmp_path):
        with pytest.raises(ValueError, match="values that bf16 does not have"):
            write_bfloat16(tmp_path / "x.safetensors", {"a": np.array([0.1], np.float32)}, {})
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_streamed_tensors_have_the_same_bytes(tmp_path, dtype):
    rng = np.random.default_rng(0)
    arrays = {"cs": rng.normal(size=(3, 2, 5)).astype(dtype), "cs_pooled": rng.normal(size=(3, 1)).astype(dtype)}
    write_tensors(tmp_path / "whole.safetensors", arrays)
    shapes = {name: array.shape for name, array in arrays.items()}
    parts = (row for array in arrays.values() for row in array)
    stream_tensors(tmp_path / "streamed.safetensors", shapes, dtype, parts)
    assert (tmp_path / "streamed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_too_few_values_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="8 bytes of tensors, where 16 were described"):
        stream_tensors(tmp_path / "a.safetensors", {"a": (4,)}, np.float32, [np.zeros(2)])
    assert not list(tmp_path.iterdir())
