"""Simulated quantization of activations: symmetric, uniform, round half to even.

Every scale here is a step size, the distance between neighbouring levels; a range becomes one in `compute_step` only.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import mlx.core as mx
import numpy as np

from taqmlx.planning.layer_rules import GroupSize

RANGE_COLUMNS = {"absmax": ["absmax"], "p999": ["p0.1", "p99.9"]}
PER_TOKEN: Final = "token"  # the group size of a step size for all channels of a token
SMALLEST_STEP = float(np.finfo(np.float32).tiny)

Bits = TypeVar("Bits", int, np.ndarray)


def find_largest_code(bits: Bits) -> Bits:
    """The largest code of a symmetric signed grid: 127 for 8 bits. Codes run from minus it to plus it."""
    largest: Bits = 2 ** (bits - 1) - 1
    return largest


def compute_step(absmax: np.ndarray | float, bits: int) -> np.ndarray:
    """The step size whose grid just reaches `absmax` (any shape, after any shift), float32.

    Above zero even where `absmax` is zero, so that it can be divided by.
    """
    step: np.ndarray = np.maximum(np.asarray(absmax, np.float32) / np.float32(find_largest_code(bits)), SMALLEST_STEP)
    return step


def look_up_step(weights: np.ndarray, steps: np.ndarray, bits: int | Sequence[int]) -> tuple[float, int]:
    """The step size and the bits where the knots of a table weigh (K,): `steps` (K,), and one number of bits or (K,).

    The bits are those of the heaviest knot, which is the nearest. Where knots differ in bits it is their ranges, step
    size times largest code, that are weighed: a step size says nothing about a grid with other codes.
    """
    at_knots = np.broadcast_to(bits, len(steps))
    used = int(at_knots[np.argmax(weights)])
    return float(weights @ (steps * (find_largest_code(at_knots) / find_largest_code(used)))), used


def quantize_dequantize(x: mx.array, step: mx.array | float, bits: int, shift: mx.array | None = None) -> mx.array:
    """`x` (..., D) rounded to multiples of `step`, clipped to the grid of `bits`, in the type of `x`.

    `step` is a step size (not a range) and broadcasts against `x`. With `shift` (D,), x - shift is rounded and the
    shift added again.
    """
    largest = find_largest_code(bits)
    centred = x.astype(mx.float32) if shift is None else x.astype(mx.float32) - shift
    rounded = mx.clip(mx.round(centred / step), -largest, largest) * step
    return (rounded if shift is None else rounded + shift).astype(x.dtype)


def compute_token_step(x: mx.array, bits: int, group_size: GroupSize = PER_TOKEN) -> mx.array:
    """The dynamic step size of each token of `x` (..., D), float32 (..., 1), or of its groups of channels, (..., D).

    Groups are those of GGUF's Q8_0 and of MX formats (Rouhani et al. 2023, arXiv 2310.10537): `group_size` neighbouring
    channels share a step size. Raises ValueError unless `group_size` divides D.
    """
    absmax = mx.abs(x.astype(mx.float32))
    if group_size == PER_TOKEN:
        absmax = absmax.max(axis=-1, keepdims=True)
    else:
        if x.shape[-1] % group_size:
            raise ValueError(f"{x.shape[-1]} channels are no multiple of the group size {group_size}")
        groups = absmax.reshape(*x.shape[:-1], -1, group_size).max(axis=-1)  # (..., D) -> (..., D / group_size)
        absmax = mx.repeat(groups, group_size, axis=-1)
    return mx.maximum(absmax / find_largest_code(bits), SMALLEST_STEP)


def compute_ranges(per_step: Mapping[str, Sequence[float]], range_name: str, is_shifted: bool) -> np.ndarray:
    """The magnitude a grid has to reach at each step, float32 (S,), from an input's statistics by step.

    `absmax` is the largest, `p999` the larger of the 0.1 % and 99.9 % quantiles. Shifted inputs always have the
    largest that is left after the shift, which is exact: quantiles of a tensor shifted by channel do not follow from
    its own.
    """
    if is_shifted:
        return np.asarray(per_step["shifted_absmax"], np.float32)
    columns = [np.abs(np.asarray(per_step[key], np.float32)) for key in RANGE_COLUMNS[range_name]]
    ranges: np.ndarray = np.maximum.reduce(columns)
    return ranges
