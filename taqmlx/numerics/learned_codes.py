"""Quantized weights learned in their stored form: codes, scales and biases with straight-through rounding.

Straight-through estimator: Bengio et al. 2013, arXiv:1308.3432. A code can take any value of the grid, as in LSQ for
weights (Esser et al. 2020, arXiv:1902.08153), not only the two of AdaRound.
"""

from collections.abc import Callable
from typing import cast

import mlx.core as mx

from taqmlx.numerics.elementwise import round_half_even
from taqmlx.numerics.stored_types import STORED_TYPES


def bind_rounding(dtype: mx.Dtype) -> Callable[[mx.array], mx.array]:
    """Function that rounds to `dtype`, as fp32, with a gradient that ignores the rounding."""

    @mx.custom_function
    def round_to_dtype(x: mx.array) -> mx.array:
        return x.astype(dtype).astype(mx.float32)

    @round_to_dtype.vjp
    def pass_gradient(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return cotangent

    return cast(Callable[[mx.array], mx.array], round_to_dtype)  # typed as object by MLX


_ROUNDINGS = {name: bind_rounding(getattr(mx, name)) for name in STORED_TYPES}


def round_stored(x: mx.array, scale_dtype: str) -> mx.array:
    """`x` rounded to its stored type, as fp32; the gradient is straight-through."""
    return _ROUNDINGS[scale_dtype](x)


def round_codes(codes: mx.array, bits: int) -> mx.array:
    """Soft codes (out, in) rounded half to even and clipped to the codes of `bits`, fp32."""
    return round_half_even(mx.clip(codes, 0.0, float(2**bits - 1)))


def dequantize_soft(codes: mx.array, scales: mx.array, biases: mx.array, bits: int) -> mx.array:
    """Weight (out, in) of rounded soft codes (out, in), with scales and biases (out, G); differentiable in all three.

    The gradient of a code is straight-through.
    """
    shape, groups = codes.shape, (*scales.shape, -1)

    @mx.custom_function
    def dequantize(codes: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
        whole = round_codes(codes, bits).reshape(groups)  # (out, in) -> (out, G, in / G)
        return (whole * scales[..., None] + biases[..., None]).reshape(shape)

    @dequantize.vjp
    def differentiate(primals: list[mx.array], cotangent: mx.array, output: mx.array) -> tuple[mx.array, ...]:
        codes, scales, _ = primals
        by_group = cotangent.reshape(groups)
        by_scale = (by_group * round_codes(codes, bits).reshape(groups)).sum(axis=-1)
        return (by_group * scales[..., None]).reshape(shape), by_scale, by_group.sum(axis=-1)

    return dequantize(codes, scales, biases)  # type: ignore[return-value]  # typed as object by MLX
