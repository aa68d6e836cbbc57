"""Types in which scales, zero points and biases are stored: fp16, or bf16, which NumPy does not have.

An array of bf16 values is a float32 array with a zero lower half in every value.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

_LOWER_HALF = 16  # bits of a float32 that bf16 does not have


class StoredType(NamedTuple):
    """A stored type: its short name, dtype of its arrays in NumPy, and largest value."""

    title: str
    array: DTypeLike
    largest: float


# By the value of the key `scale_dtype`, which is also the name in MLX. Plots use this without importing MLX.
STORED_TYPES = {
    "float16": StoredType("fp16", np.float16, float(np.finfo(np.float16).max)),
    "bfloat16": StoredType("bf16", np.float32, 2.0**127 * (2 - 2.0**-7)),
}


def find_scale_dtype(array: np.ndarray) -> str:
    """The key of STORED_TYPES of an array of scales, zero points or biases."""
    return next(name for name, stored in STORED_TYPES.items() if array.dtype == stored.array)


def round_values(values: np.ndarray, scale_dtype: str) -> np.ndarray:
    """`values` float32 rounded to the stored type, half to even, as float32; infinite on overflow."""
    with np.errstate(over="ignore"):
        if scale_dtype == "float16":
            return values.astype(np.float16).astype(np.float32)
        words = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = words + (np.uint32(2 ** (_LOWER_HALF - 1) - 1) + (words >> np.uint32(_LOWER_HALF) & np.uint32(1)))
    return take_upper_halves(rounded).view(np.float32)


def take_upper_halves(words: np.ndarray) -> np.ndarray:
    """Words uint32 with a zero lower half."""
    halves: np.ndarray = words >> np.uint32(_LOWER_HALF) << np.uint32(_LOWER_HALF)
    return halves


def convert_values(values: np.ndarray, scale_dtype: str) -> np.ndarray:
    """`values` rounded to the stored type, as an array of that type."""
    return round_values(values, scale_dtype).astype(STORED_TYPES[scale_dtype].array)


def encode_bfloat16(values: np.ndarray) -> np.ndarray:
    """bf16 values float32 as uint16, the bits of bf16. Raises ValueError for a value that bf16 does not have."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    if not np.array_equal(words, take_upper_halves(words)):
        raise ValueError("values that bf16 does not have")
    return (words >> np.uint32(_LOWER_HALF)).astype("<u2")


def decode_bfloat16(halves: np.ndarray) -> np.ndarray:
    """Bits of bf16 values, uint16, as float32."""
    return (halves.astype(np.uint32) << np.uint32(_LOWER_HALF)).view(np.float32)
