"""GELU, attention, norms and rounding in the fastest form for each device.

On a CPU, MLX evaluates exp and erf one element at a time, while sums, products, quotients and bit shifts are vectorised
and about fifty times faster. GELU and softmax on a CPU are therefore built from these operations, fused into a few
passes over memory, at least as precise as MLX's own, and sums over the last axis are matrix products with a column. A
GPU uses MLX's own functions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from taqmlx.numerics import fused

MANTISSA_BITS = 23
LOWEST = -126.0  # 2^LOWEST is the smallest normal number; a lower exponent does not fit
TAIL_END = 16.0  # Phi(-a) is zero in fp32 beyond this
TINY = 1e-30  # lower bound of |x| as a divisor


def exponentiate(y: mx.array) -> mx.array:
    """2^y fp32 for LOWEST <= y <= 127, within 1.2 ulp: a polynomial for 2^f, the exponent bits for 2^n."""
    power = fused.finish_power(y, fused.begin_power(y))
    return power * mx.left_shift((y + fused.ROUNDER).view(mx.int32), MANTISSA_BITS).view(mx.float32)


@mx.custom_function
def approximate_gelu(x: mx.array) -> mx.array:
    """GELU(x) = x Phi(x) fp32 of any shape, computed as max(x, 0) - |x| Phi(-|x|).

    The error is within 1.8e-7 |x|, and for x > 0 within 3.5 ulp; that of `nn.gelu` is within 2.6e-7 |x| and 8 ulp. The
    form is that of Abramowitz and Stegun 7.1.28, but squared as (1 + u)^2 - 1 = u (u + 2), because a power of 1 + u
    would also amplify the rounding error of that sum. With the scaling by r the last u is twice as large, so that u + 2
    is 2 (1 + u / r)^32.
    """
    return fused.subtract_tail(x, fused.double_excess(fused.compute_excess(x)))


@approximate_gelu.vjp
def differentiate_gelu(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    """Cotangent times Phi(x) + x phi(x), within 5e-5; Phi(-|x|) is recovered from the output."""
    magnitude = mx.clip(mx.abs(x), TINY, TAIL_END)
    return fused.scale_by_slope(cotangent, x, mx.sign(x), magnitude, output, fused.turn_tail(magnitude))


def approximate_softmax(scores: mx.array, scale: float) -> mx.array:
    """softmax(scale scores) over the last axis, computed in fp32, in the dtype of the scores.

    The error of each exponential is within 2 ulp of the largest one, 1.
    """
    column = mx.ones((scores.shape[-1], 1))

    @mx.custom_function
    def apply(scores: mx.array) -> mx.array:
        below = scores.astype(mx.float32) - mx.max(scores, axis=-1, keepdims=True)
        weights = exponentiate(mx.maximum(below * (scale / math.log(2)), LOWEST))
        return (weights / (weights @ column)).astype(scores.dtype)

    @apply.vjp
    def differentiate(scores: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        by_score = cotangent * output
        return (by_score - output * (by_score @ column.astype(scores.dtype))) * scale

    return apply(scores)  # type: ignore[return-value]  # MLX says object


def normalize_by_products(x: mx.array, eps: float) -> mx.array:
    """Layer norm of x (..., D) without weights; both means are products with a column of 1 / D."""
    mean = mx.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    centred = x - x @ mean
    return centred * mx.rsqrt(mx.square(centred) @ mean + eps)


def normalize_fused(x: mx.array, eps: float) -> mx.array:
    """Layer norm of x (..., D) without weights, by MLX's fused kernel."""
    return mx.fast.layer_norm(x, None, None, eps)


def scale_by_products(x: mx.array, gain: mx.array, eps: float) -> mx.array:
    """RMS norm of x (..., D) with a gain (D,) (Zhang and Sennrich 2019, arXiv 1910.07467); the mean is a product."""
    mean = mx.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    return x * mx.rsqrt(mx.square(x) @ mean + eps) * gain


def attend_explicitly(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """Attention of q, k, v (B, heads, T, head dim) as two products with a softmax between them."""
    return approximate_softmax(q @ k.swapaxes(-1, -2), scale) @ v


def attend_fused(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """Attention of q, k, v (B, heads, T, head dim), by MLX's fused kernel."""
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)


@dataclass(frozen=True)
class Kernels:
    """Functions for one kind of device."""

    layer_norm: Callable[[mx.array, float], mx.array]
    rms_norm: Callable[[mx.array, mx.array, float], mx.array]
    gelu: Callable[[mx.array], mx.array]
    attend: Callable[[mx.array, mx.array, mx.array, float], mx.array]


KERNELS = {
    mx.cpu: Kernels(
        normalize_by_products,
        scale_by_products,
        approximate_gelu,  # type: ignore[arg-type]  # typed as object by MLX
        attend_explicitly,
    ),
    mx.gpu: Kernels(normalize_fused, mx.fast.rms_norm, nn.gelu, attend_fused),
}


def select_kernels() -> Kernels:
    """Functions for MLX's default device."""
    return KERNELS[mx.default_device().type]


def round_half_even(x: mx.array) -> mx.array:
    """x fp32, of magnitude up to 2^22, rounded half to even like mx.round, in a third of the time on a CPU."""
    return (x + fused.INTEGERS) - fused.INTEGERS
