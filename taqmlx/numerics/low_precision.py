"""Products of linear layers for learning: in fp32, or in 16 bits with fp32 inputs, outputs and gradients.

Mixed precision as in Micikevicius et al. 2018, arXiv:1710.03740: the operands and the result of every product, forward
and backward, are rounded to 16 bits, sums are fp32, and what is learned stays fp32. In place of one scale for the loss,
each product scales the gradient of its output by a power of two, so that fp16 neither loses nor overflows it.
"""

from collections.abc import Callable
from typing import cast

import mlx.core as mx

# x (..., in) and weight (out, in) -> x @ weight.T, fp32 (..., out), differentiable
Multiply = Callable[[mx.array, mx.array], mx.array]
EXPONENT = 0x7F800000  # bits of the exponent of an fp32 number
SMALLEST = 2.0**-126  # normal fp32 number


def multiply_single(x: mx.array, weight: mx.array) -> mx.array:
    """x @ weight.T in fp32."""
    return x @ weight.T


def multiply_half(left: mx.array, right: mx.array, dtype: mx.Dtype) -> mx.array:
    """left @ right in `dtype`, as fp32."""
    return (left.astype(dtype) @ right.astype(dtype)).astype(mx.float32)


def simulate_half(left: mx.array, right: mx.array, dtype: mx.Dtype) -> mx.array:
    """`multiply_half` up to the order of its sums, by a product in fp32: MLX's own of 16 bits is slow on a CPU."""
    rounded = left.astype(dtype).astype(mx.float32) @ right.astype(dtype).astype(mx.float32)
    return rounded.astype(dtype).astype(mx.float32)


PRODUCTS = {mx.cpu: simulate_half, mx.gpu: multiply_half}


def find_magnitude(values: mx.array) -> mx.array:
    """Power of two fp32 () that brings the absmax of `values` fp32 into [1, 2) as a divisor; not 0."""
    absmax = mx.maximum(mx.abs(values).max(), SMALLEST)
    return (absmax.view(mx.uint32) & EXPONENT).view(mx.float32)


def bind_multiply(dtype: mx.Dtype) -> Multiply:
    """`multiply(x, weight)` with products in `dtype`."""

    def product(left: mx.array, right: mx.array) -> mx.array:
        return PRODUCTS[mx.default_device().type](left, right, dtype)

    @mx.custom_function
    def multiply(x: mx.array, weight: mx.array) -> mx.array:
        return product(x, weight.T)

    @multiply.vjp
    def differentiate(primals: list[mx.array], cotangent: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
        x, weight = primals
        magnitude = find_magnitude(cotangent)
        scaled = cotangent / magnitude
        by_weight = product(scaled.reshape(-1, len(weight)).T, x.reshape(-1, x.shape[-1]))  # (out, rows) @ (rows, in)
        return product(scaled, weight) * magnitude, by_weight * magnitude

    return cast(Multiply, multiply)  # typed as object by MLX


# By the value of the key `learning_dtype`, which is also the name in MLX.
MULTIPLY: dict[str, Multiply] = {
    "float32": multiply_single,
    "bfloat16": bind_multiply(mx.bfloat16),
    "float16": bind_multiply(mx.float16),
}


def suggest_precision(learning_dtype: str) -> str:
    """Remedy to append to those of an error message about a value that is not finite; empty in fp32."""
    return "" if learning_dtype == "float32" else ", set learning_dtype: float32"
