"""Equality of two files in content, though their bytes differ: a difference that no reader can see."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load

from taqmlx.store.tensors import read_metadata


def has_same_content(first: Path, second: Path) -> bool:
    """Whether both files can be read and hold the same values."""
    if not (first.is_file() and second.is_file()):
        return False
    try:
        return READERS[second.suffix](first, second)
    except (KeyError, ValueError, OSError, SyntaxError, SafetensorError):
        return False


def compare_json(first: Path, second: Path) -> bool:
    """The same values; a name that no reader asks for counts as another."""
    return json.loads(first.read_text("utf-8")) == json.loads(second.read_text("utf-8"))


def compare_tensors(first: Path, second: Path) -> bool:
    """The same arrays and metadata."""
    if read_metadata(first) != read_metadata(second):
        return False
    return compare_arrays(load(first.read_bytes()), load(second.read_bytes()))


def compare_numpy(first: Path, second: Path) -> bool:
    """The same arrays."""
    one, other = (np.load(path, allow_pickle=False) for path in (first, second))
    if isinstance(one, np.ndarray):
        return compare_arrays({"": one}, {"": other})
    return compare_arrays(dict(one), dict(other))


def compare_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """The same names, types, shapes and values."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and np.array_equal(one[key], other[key]) for key in one
    )


def compare_pictures(first: Path, second: Path) -> bool:
    """The same pixels and texts."""
    with Image.open(first) as one, Image.open(second) as other:
        return np.array_equal(np.asarray(one), np.asarray(other)) and one.text == other.text


READERS = {
    ".json": compare_json,
    ".safetensors": compare_tensors,
    ".npz": compare_numpy,
    ".npy": compare_numpy,
    ".png": compare_pictures,
}
