"""Quantized weights that are learned as they are stored: codes, scales and biases with straight-through rounding.

Straight-through estimator: Bengio et al. 2013, arXiv:1308.3432. All codes of a grid are open, as in LSQ for weights
(Esser et al. 2020, arXiv:1902.08153), not the two of AdaRound.
"""

from collections.abc import Callable
from typing import cast

import mlx.core as mx

INTEGERS = 1.5 * 2**23  # fp32 numbers about it are the integers


@mx.custom_function
def _round_stored(x: mx.array) -> mx.array:
    """`x` as fp16 holds it, in fp32; the gradient passes as if it were not rounded."""
    return x.astype(mx.float16).astype(mx.float32)


@_round_stored.vjp
def pass_gradient(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    """The cotangent as it is."""
    return cotangent


round_stored = cast(Callable[[mx.array], mx.array], _round_stored)  # MLX says that it returns an object


def round_codes(codes: mx.array, bits: int) -> mx.array:
    """The nearest codes of `bits`, fp32, of soft codes (out, in); halves to even."""
    return (mx.clip(codes, 0.0, float(2**bits - 1)) + INTEGERS) - INTEGERS


def dequantize_soft(codes: mx.array, scales: mx.array, biases: mx.array, bits: int) -> mx.array:
    """The weight (out, in) of soft codes (out, in), rounded, with scales and biases (out, G); differentiable in all.

    The gradient of a code passes its rounding straight through.
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

    return dequantize(codes, scales, biases)  # type: ignore[return-value]  # MLX says object
