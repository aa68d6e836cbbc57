"""Simulated quantization of activations: symmetric, uniform, round half to even.

Every scale here is a step size, the distance between adjacent levels. `compute_step` converts a clipping range to one.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import mlx.core as mx
import numpy as np

RANGE_COLUMNS = {"absmax": ["absmax"], "p999": ["p0.1", "p99.9"]}
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
