"""Quantization of activations with a learned step size: LSQ (Esser et al. 2020, arXiv:1902.08153, eq. 1-5)."""

import math

import mlx.core as mx

from taqmlx.numerics.activation import find_largest_code
from taqmlx.numerics.elementwise import round_half_even


def quantize_learned(x: mx.array, step: mx.array, bits: int) -> mx.array:
    """`x` (B, T, D) rounded to multiples of `step` and clipped, differentiable in both, straight-through in `x`.

    step: (1, 1, 1), (B, 1, 1) or (B, 1, D). Its gradient is scaled by 1 / sqrt(N q), with N the number of values that
    share it and q the largest code (sec. 2.2).
    """
    largest = float(find_largest_code(bits))
    scale = 1.0 / math.sqrt(x.size // step.size * largest)

    @mx.custom_function
    def quantize(x: mx.array, step: mx.array) -> mx.array:
        return round_half_even(mx.clip(x / step, -largest, largest)) * step

    @quantize.vjp
    def differentiate(primals: list[mx.array], cotangent: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
        x, step = primals
        passed = cotangent * (mx.abs(x) <= largest * step)
        # d/dstep: round(v) - v inside the range, the clipped code outside (eq. 3), here times the step size
        by_step = cotangent * output - passed * x
        for axis in range(x.ndim):  # one by one, because sums over the last axis are the slow ones
            if step.shape[axis] == 1:
                by_step = by_step.sum(axis=axis, keepdims=True)
        return passed, by_step / step * scale

    return quantize(x, step)  # type: ignore[return-value]  # typed as object by MLX
