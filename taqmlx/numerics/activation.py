"""Simulated quantization of activations: symmetric, uniform, round half to even.

Every scale here is a step size, the distance between adjacent levels. `compute_step` converts a clipping range to one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import mlx.core as mx
import numpy as np

from taqmlx.planning.layer_rules import GroupSize

RANGE_COLUMNS = {"absmax": ["absmax"], "p999": ["p0.1", "p99.9"]}
PER_TOKEN: Final = "token"  # group size of one step size per token, shared by all its channels
SMALLEST_STEP = float(np.finfo(np.float32).tiny)

Bits = TypeVar("Bits", int, np.ndarray)


def find_largest_code(bits: Bits) -> Bits:
    """Largest code of a symmetric signed grid, 127 for 8 bits. Codes run from -largest to +largest."""
    largest: Bits = 2 ** (bits - 1) - 1
    return largest


def compute_step(absmax: np.ndarray | float, bits: int) -> np.ndarray:
    """Step size float32 of the grid that just covers `absmax` (any shape, after any shift).

    The step size is positive even where `absmax` is zero, so it is safe to divide by.
    """
    step: np.ndarray = np.maximum(np.asarray(absmax, np.float32) / np.float32(find_largest_code(bits)), SMALLEST_STEP)
    return step


def look_up_step(weights: np.ndarray, steps: np.ndarray, bits: int | Sequence[int]) -> tuple[float, int]:
    """Step size and bit width from a table of step sizes `steps` (K,) and the weights of its knots (K,).

    `bits` is one bit width or (K,). The bit width returned is that of the knot with the largest weight, the nearest.
    Where knots differ in bits, clipping ranges (step size times largest code) are averaged instead of step sizes,
    because step sizes of grids with different codes are not comparable.
    """
    at_knots = np.broadcast_to(bits, len(steps))
    used = int(at_knots[np.argmax(weights)])
    return float(weights @ (steps * (find_largest_code(at_knots) / find_largest_code(used)))), used


def quantize_dequantize(x: mx.array, step: mx.array | float, bits: int, shift: mx.array | None = None) -> mx.array:
    """`x` (..., D) rounded to multiples of `step` and clipped to the grid of `bits`, in the dtype of `x`.

    `step` is a step size (not a range) and broadcasts against `x`. With `shift` (D,), x - shift is quantized and the
    shift is added back.
    """
    largest = find_largest_code(bits)
    centred = x.astype(mx.float32) if shift is None else x.astype(mx.float32) - shift
    rounded = mx.clip(mx.round(centred / step), -largest, largest) * step
    return (rounded if shift is None else rounded + shift).astype(x.dtype)


def compute_token_step(x: mx.array, bits: int, group_size: GroupSize = PER_TOKEN) -> mx.array:
    """Dynamic step size float32 of each token of `x` (..., D), (..., 1), or of each group of channels, (..., D).

    `group_size` adjacent channels share a step size, as in GGUF's Q8_0 and in MX formats (Rouhani et al. 2023,
    arXiv 2310.10537). Raises ValueError unless `group_size` divides D.
    """
    absmax = reduce_groups(mx.max, mx.abs(x.astype(mx.float32)), group_size)
    return mx.maximum(absmax / find_largest_code(bits), SMALLEST_STEP)


def compute_token_centre(x: mx.array, group_size: GroupSize = PER_TOKEN) -> mx.array:
    """Centre of the range, float32, of each token of `x` (..., D), (..., 1), or of each group of channels, (..., D).

    The grid of x less its centre has both ends of the range of x, like the groups of MLX's `quantize`. Raises
    ValueError unless `group_size` divides D.
    """
    x = x.astype(mx.float32)
    return (reduce_groups(mx.max, x, group_size) + reduce_groups(mx.min, x, group_size)) / 2


def reduce_groups(reduce: Callable[..., mx.array], x: mx.array, group_size: GroupSize) -> mx.array:
    """`reduce` over the channels of each token of x (..., D), (..., 1), or over each group of them, (..., D)."""
    if group_size == PER_TOKEN:
        return reduce(x, axis=-1, keepdims=True)
    if x.shape[-1] % group_size:
        raise ValueError(f"{x.shape[-1]} channels are not a multiple of the group size {group_size}")
    groups = x.reshape(*x.shape[:-1], -1, group_size)  # (..., D) -> (..., D / group_size, group_size)
    return mx.repeat(reduce(groups, axis=-1), group_size, axis=-1)


def compute_ranges(per_step: Mapping[str, Sequence[float]], range_name: str, is_shifted: bool) -> np.ndarray:
    """Clipping range at each timestep, float32 (S,), from the per-step statistics of a layer input.

    `absmax` is the largest absolute value, `p999` the larger magnitude of the 0.1 % and 99.9 % quantiles. Shifted
    inputs always use the absmax after the shift, which is exact: the quantiles of a tensor shifted per channel cannot
    be derived from the quantiles of the unshifted tensor.
    """
    if is_shifted:
        return np.asarray(per_step["shifted_absmax"], np.float32)
    columns = [np.abs(np.asarray(per_step[key], np.float32)) for key in RANGE_COLUMNS[range_name]]
    ranges: np.ndarray = np.maximum.reduce(columns)
    return ranges
