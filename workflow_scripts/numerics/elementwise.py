"""GELU, attention and norms as the device computes them best.

On a CPU MLX evaluates exp and erf one element at a time, while sums, products and quotients are vectorised and some
fifty times faster. So there GELU and softmax raise a polynomial to a power by squaring, in the manner of Abramowitz
and Stegun 7.1.28, and sums over the last axis are matrix products with a column. A GPU uses MLX's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

# For a >= 0, highest power first, minimax in the absolute error:
TAIL = (0.00010027996, -0.00012231453, 0.0036740895, 0.021888671, 0.052136893, 1.0442674)  # Phi(-a) = p(a)^-16
DECAY = (3.5369759e-07, 9.6196017e-06, 0.00032675445, 0.0078114102, 0.1250003, 1.0)  # exp(-a) = p(a)^-8
TURN = (-0.0016839712, 0.019890475, -0.10823755, -0.63735866, -0.79772596, 0.99999528)  # 1 - a phi(a) / Phi(-a)
TAIL_END = 16.0  # both are zero in fp32 beyond; ending there keeps the powers, and so the gradients, finite
DECAY_END = 80.0
TINY = 1e-30  # to divide by |x| at 0


def raise_polynomial(coefficients: tuple[float, ...], x: mx.array, squarings: int) -> mx.array:
    """p(x)^(2^squarings) for the polynomial with these coefficients, highest power first."""
    power = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        power = power * x + coefficient
    for _ in range(squarings):
        power = mx.square(power)
    return power


@mx.custom_function
def approximate_gelu(x: mx.array) -> mx.array:
    """GELU(x) = x Phi(x) within 2e-6, as max(x, 0) - |x| Phi(-|x|); of any shape, fp32."""
    magnitude = mx.minimum(mx.abs(x), TAIL_END)
    return mx.maximum(x, 0.0) - magnitude / raise_polynomial(TAIL, magnitude, 4)


@approximate_gelu.vjp
def differentiate_gelu(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    """Times Phi(x) + x phi(x) within 5e-5, with Phi(-|x|) taken from the output."""
    magnitude = mx.clip(mx.abs(x), TINY, TAIL_END)
    tail = (mx.maximum(x, 0.0) - output) / magnitude
    return cotangent * (mx.sign(x) * (0.5 - tail * raise_polynomial(TURN, magnitude, 0)) + 0.5)


def approximate_softmax(scores: mx.array, scale: float) -> mx.array:
    """softmax(scale scores) over the last axis within 4e-6, fp32. The scale goes into the coefficients."""
    degree = len(DECAY) - 1
    coefficients = tuple(value * scale ** (degree - index) for index, value in enumerate(DECAY))
    column = mx.ones((scores.shape[-1], 1), scores.dtype)

    @mx.custom_function
    def apply(scores: mx.array) -> mx.array:
        below = mx.minimum(mx.max(scores, axis=-1, keepdims=True) - scores, DECAY_END / scale)
        weights = mx.reciprocal(raise_polynomial(coefficients, below, 3))
        return weights / (weights @ column)

    @apply.vjp
    def differentiate(scores: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        by_score = cotangent * output
        return (by_score - output * (by_score @ column)) * scale

    return apply(scores)


def normalize_by_products(x: mx.array, eps: float) -> mx.array:
    """Layer norm of x (..., D) without weights, its two means as products with a column of 1 / D."""
    mean = mx.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    centred = x - x @ mean
    return centred * mx.rsqrt(mx.square(centred) @ mean + eps)


def normalize_fused(x: mx.array, eps: float) -> mx.array:
    """The same by MLX's fused kernel."""
    return mx.fast.layer_norm(x, None, None, eps)


def scale_by_products(x: mx.array, gain: mx.array, eps: float) -> mx.array:
    """RMS norm of x (..., D) with a gain (D,) (Zhang and Sennrich 2019, arXiv 1910.07467), its mean as a product."""
    mean = mx.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    return x * mx.rsqrt(mx.square(x) @ mean + eps) * gain


def attend_explicitly(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """Attention of q, k, v (B, heads, T, head dim) by two products and the softmax between them."""
    return approximate_softmax(q @ k.swapaxes(-1, -2), scale) @ v


def attend_fused(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """The same by MLX's fused kernel."""
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)


@dataclass(frozen=True)
class Kernels:
    """The functions of one kind of device."""

    layer_norm: Callable[[mx.array, float], mx.array]
    rms_norm: Callable[[mx.array, mx.array, float], mx.array]
    gelu: Callable[[mx.array], mx.array]
    attend: Callable[[mx.array, mx.array, mx.array, float], mx.array]


KERNELS = {
    mx.cpu: Kernels(normalize_by_products, scale_by_products, approximate_gelu, attend_explicitly),
    mx.gpu: Kernels(normalize_fused, mx.fast.rms_norm, nn.gelu, attend_fused),
}


def select_kernels() -> Kernels:
    """The functions for MLX's default device."""
    return KERNELS[mx.default_device().type]
