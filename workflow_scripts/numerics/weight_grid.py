"""The grid of a quantized weight: MLX's affine groups, w = code * scale + bias along the input channels.

Scales and biases are rounded to fp16 before the codes are taken, so that the values stored are the values the codes
were chosen for.
"""

from typing import NamedTuple

import mlx.core as mx
import numpy as np


class Grid(NamedTuple):
    """Scales and biases fp16 (out, in / group_size), `bits` and `group_size`."""

    scales: np.ndarray
    biases: np.ndarray
    bits: int
    group_size: int


def choose_grid(weight: mx.array, bits: int, group_size: int) -> Grid:
    """MLX's own affine grid of `weight` (out, in), one scale and bias per `group_size` inputs, as fp16.

    Raises ValueError if `in` is not a multiple of `group_size`.
    """
    if weight.shape[-1] % group_size:
        raise ValueError(f"{weight.shape[-1]} inputs are no multiple of the group size {group_size}")
    _, scales, biases = mx.quantize(weight.astype(mx.float32), group_size=group_size, bits=bits)
    return Grid(np.array(scales.astype(mx.float16)), np.array(biases.astype(mx.float16)), bits, group_size)


def spread(groups: np.ndarray, group_size: int) -> np.ndarray:
    """One value per group (out, groups) as one per input (out, in), float32."""
    return np.repeat(groups.astype(np.float32), group_size, axis=-1)


def round_to_grid(weight: np.ndarray, grid: Grid) -> np.ndarray:
    """The nearest codes, uint8 (out, in), round half to even."""
    # MLX keeps scales at 1e-7 or above, which fp16 still holds.
    scales = spread(grid.scales, grid.group_size)
    codes = np.rint((weight.astype(np.float32) - spread(grid.biases, grid.group_size)) / scales)
    return np.clip(codes, 0, 2**grid.bits - 1).astype(np.uint8)


def dequantize(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """The weight the codes (out, in) stand for, float32 (out, in)."""
    return codes * spread(grid.scales, grid.group_size) + spread(grid.biases, grid.group_size)


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (out, in) as MLX packs them: a little-endian stream of `bits` bits a code, uint32 (out, in * bits / 32)."""
    stream = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")  # (out, in) -> (out, in, bits)
    stream = stream.reshape(len(codes), -1)  # (out, in, bits) -> (out, in * bits)
    return np.packbits(stream, axis=-1, bitorder="little").view("<u4")


def unpack_codes(packed: np.ndarray, bits: int) -> np.ndarray:
    """The codes uint8 (out, in) of `pack_codes`."""
    stream = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), axis=-1, bitorder="little")
    stream = stream.reshape(len(packed), -1, bits)  # (out, in * bits) -> (out, in, bits)
    return np.packbits(stream, axis=-1, bitorder="little")[..., 0]
