"""Grid of a quantized weight: MLX's affine groups, w = code * scale + bias along the input channels.

Scales and biases are rounded to their stored type, fp16 or bf16, before the codes are computed, so that codes match the
stored values.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.numerics.stored_types import STORED_TYPES, convert_values, find_scale_dtype, round_values
from taqmlx.planning.bit_choices import stored_bits
from taqmlx.planning.layer_rules import WEIGHTED, WeightRule, read_scale_dtype

# Number of weights searched at a time; the data of all passes stays in the cache.
_CHUNK = 2**16
# Smallest scale, for groups of equal weights: the smallest number of fp16, which bf16 has too.
_TINY = 2.0**-24

# Passes of a range search, in order: inward moves of the lower and upper end of the best range so far, as shares of the
# full range. The ends of a symmetric range move together, down to 0.4 of the full range; other ends move first together
# and then separately, coarsely and finely. The result is within 0.07 dB at 6 bits of that of passes of 142 moves.
_BOTH, _LOWER, _UPPER = [1, 1], [1, 0], [0, 1]
_COARSE, _FINE = np.linspace(-0.12, 0.12, 7)[:, None], np.linspace(-0.02, 0.02, 5)[:, None]
_PASSES = {
    True: (np.linspace(0.3, 0, 80, endpoint=False)[::-1, None] * _BOTH,),
    False: (
        np.linspace(0.02, 0.3, 15)[:, None] * _BOTH,
        np.linspace(-0.015, 0.015, 7)[:, None] * _BOTH,
        _COARSE * _LOWER,
        _COARSE * _UPPER,
        _FINE * _LOWER,
        _FINE * _UPPER,
    ),
}


class Grid(NamedTuple):
    """Scales and biases (out, in / group_size), nominal `bits` 2 to 8, and `group_size` 32, 64 or 128.

    Scales and biases are float16 arrays, or float32 arrays of bf16 values.
    """

    scales: np.ndarray
    biases: np.ndarray
    bits: int
    group_size: int

    @property
    def scale_dtype(self) -> str:
        """Stored type of scales and biases, a key of STORED_TYPES."""
        return find_scale_dtype(self.scales)


def choose_grid(weight: np.ndarray | mx.array, rule: WeightRule, squares: np.ndarray | None = None) -> Grid:
    """Grid of `weight` (out, in) by `rule`: `bits`, `group_size`, `symmetric`, `range` and `scale_dtype`.

    squares (in,): mean squares of the layer's inputs, of any common factor, for the range "weighted".

    The lowest and highest code of a group represent the ends of its range; a symmetric range is centred on zero, and
    its code 2^(bits - 1) is zero. The range is that of the weights ("absmax"), or the one with the least squared error
    ("search"), in which each weight counts by the mean square of its input ("weighted"): the output error of inputs
    without correlation. The grid of a row (`group_size` "row") is stored once per group of the largest group size that
    fits.
    MLX's own range, which keeps zero a level of every group, has a larger error on trained weights from 4 bits on, by
    0.3 dB in groups of 32 and 0.02 in groups of 128; at 2 bits its error is smaller, but 2 dB above that of a search.

    Raises ValueError if no group size divides `in`, if the stored type cannot represent a weight, a scale or a bias, or
    if a weighted range has no squares, or some that are not finite.
    """
    weight, scale_dtype = np.array(mx.array(weight).astype(mx.float32)), read_scale_dtype(rule)
    reject_overflow(scale_dtype, weight)
    group_size = fit_group_size(weight.shape[1], rule["group_size"])
    span = weight.shape[1] if rule["group_size"] == "row" else group_size
    shares = share_squares(rule, squares)
    chosen = [choose_ranges(groups, rule, own) for groups, own in split_groups(weight, span, shares)]
    scales, biases = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
    reject_overflow(scale_dtype, scales, biases)
    # (out * in / span, 1) -> (out, in / span) -> (out, in / group_size)
    scales, biases = (
        convert_values(np.repeat(part.reshape(len(weight), -1), span // group_size, axis=1), scale_dtype)
        for part in (scales, biases)
    )
    return Grid(scales, biases, rule["bits"], group_size)


def reject_overflow(scale_dtype: str, *arrays: np.ndarray) -> None:
    """Raise ValueError unless the stored type can represent every value."""
    stored = STORED_TYPES[scale_dtype]
    if not all(np.abs(array).max() <= stored.largest for array in arrays):
        raise ValueError(
            f"weights are not finite, or beyond the range of {stored.title}, which holds their scales and biases"
        )


def fit_group_size(width: int, group_size: int | Literal["row"]) -> int:
    """Stored group size for `width` inputs: `group_size`, or for "row" the largest of 128, 64, 32 that divides `width`.

    Raises ValueError if none does.
    """
    sizes = [128, 64, 32] if group_size == "row" else [group_size]
    for size in sizes:
        if width % size == 0:
            return size
    raise ValueError(f"{width} inputs are not a multiple of the group size {sizes[-1]}")


def share_squares(rule: WeightRule, squares: np.ndarray | None) -> np.ndarray | None:
    """Squares float32 (in,) over their mean, if the range of `rule` is weighted. Raises ValueError as `choose_grid`."""
    if rule["range"] != WEIGHTED:
        return None
    if squares is None:
        raise ValueError("range: weighted needs the inputs of the layer, which are not known here; use search")
    if not np.isfinite(squares).all():
        raise ValueError("range: weighted: the layer input has values that are not finite or too large to square")
    shares: np.ndarray = (squares / (squares.mean() or 1)).astype(np.float32)
    return shares


def split_groups(
    weight: np.ndarray, span: int, shares: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Groups of `span` inputs of the weight (out, in), in chunks (groups, span), with the `shares` (in,) of inputs."""
    groups = weight.reshape(-1, span)  # (out, in) -> (out * in / span, span)
    count = max(1, _CHUNK // span)
    for start in range(0, len(groups), count):
        chunk = groups[start : start + count]
        if shares is None:
            yield chunk, None
        else:
            of_row = shares.reshape(-1, span)  # (in,) -> (in / span, span)
            yield chunk, of_row[np.arange(start, start + len(chunk)) % len(of_row)]


def choose_ranges(groups: np.ndarray, rule: WeightRule, shares: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Scales and biases (groups, 1) of `groups` (groups, span), rounded to their stored type, as float32.

    shares (groups, span): of the inputs, for a weighted range.
    """
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    if rule["symmetric"]:
        high = np.maximum(-low, high)
        low = -high
    if rule["range"] != "absmax":
        low, high = search_ranges(groups, low, high, rule, shares)
    return place_levels(low, high, rule)


def place_levels(low: np.ndarray, high: np.ndarray, rule: WeightRule) -> tuple[np.ndarray, np.ndarray]:
    """Scales and biases of the ranges `low` to `high`, rounded to their stored type, as float32."""
    bits, symmetric, scale_dtype = rule["bits"], rule["symmetric"], read_scale_dtype(rule)
    steps = high / (2 ** (bits - 1) - 1) if symmetric else (high - low) / (2**bits - 1)
    scales = np.maximum(round_values(steps, scale_dtype), _TINY)
    return scales, round_values(-(2 ** (bits - 1)) * scales if symmetric else low, scale_dtype)


def search_ranges(
    groups: np.ndarray, low: np.ndarray, high: np.ndarray, rule: WeightRule, shares: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ends (groups, 1) of the ranges with the least squared error, the full ranges `low` to `high` included.

    The error is that of rounding to the nearest level of the grid as stored, times `shares` (groups, span), if any.
    """
    full = high - low
    least = measure_error(groups, *place_levels(low, high, rule), rule["bits"], shares)
    for moves in _PASSES[rule["symmetric"]]:
        start_low, start_high = low, high
        for move_low, move_high in moves:
            ends = start_low + np.float32(move_low) * full, start_high - np.float32(move_high) * full
            error = measure_error(groups, *place_levels(*ends, rule), rule["bits"], shares)
            better = error < least
            least, low, high = (np.where(better, *pair) for pair in ((error, least), (ends[0], low), (ends[1], high)))
    return low, high


def measure_error(
    groups: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int, shares: np.ndarray | None
) -> np.ndarray:
    """Squared error (groups, 1) of `groups` (groups, span) rounded to their nearest levels, times `shares`, if any."""
    errors = take_codes(groups, scales, biases, bits)
    errors *= scales
    errors += biases
    errors -= groups
    sums: np.ndarray = np.einsum("gs,gs->g", errors, errors if shares is None else errors * shares)[:, None]
    return sums


def take_codes(weight: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int) -> np.ndarray:
    """Nearest codes as float32, round half to even, in a new array."""
    codes: np.ndarray = weight - biases
    codes /= scales
    np.rint(codes, out=codes)
    return np.clip(codes, 0, 2**bits - 1, out=codes)


def expand_groups(groups: np.ndarray, group_size: int) -> np.ndarray:
    """Values per group (out, groups) repeated per input, (out, in), float32."""
    return np.repeat(groups.astype(np.float32), group_size, axis=-1)


def round_to_grid(weight: np.ndarray, grid: Grid) -> np.ndarray:
    """Nearest codes, uint8 (out, in), round half to even."""
    scales, biases = expand_groups(grid.scales, grid.group_size), expand_groups(grid.biases, grid.group_size)
    return take_codes(weight.astype(np.float32), scales, biases, grid.bits).astype(np.uint8)


def dequantize(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """Dequantized weight of codes (out, in), float32 (out, in)."""
    weight: np.ndarray = codes * expand_groups(grid.scales, grid.group_size) + expand_groups(
        grid.biases, grid.group_size
    )
    return weight


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (out, in) in MLX's packed format: a little-endian stream of `stored_bits(bits)` bits per code.

    Returns uint32 (out, in * stored bits / 32).
    """
    # (out, in) -> (out, in, stored bits) -> (out, in * stored bits)
    stream = np.unpackbits(codes[..., None], axis=-1, count=stored_bits(bits), bitorder="little")
    return np.packbits(stream.reshape(len(codes), -1), axis=-1, bitorder="little").view("<u4")


def unpack_codes(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes uint8 (out, in) from the output of `pack_codes`."""
    stream = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), axis=-1, bitorder="little")
    stream = stream.reshape(len(packed), -1, stored_bits(bits))  # (out, in * stored bits) -> (out, in, stored bits)
    return np.packbits(stream, axis=-1, bitorder="little")[..., 0]
