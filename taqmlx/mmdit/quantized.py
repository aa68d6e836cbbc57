"""Quantized inference: linear layers with quantized weights, and inputs quantized with the step sizes of a noise level.

    y = W' Q((x - z) / m; S(sigma)) + b',    b' = b + W' (z / m)

W' is the quantized weight, with the migration m in its columns; z is the shift and S the step size (TaQ-DiT, Liu et al.
2024, arXiv 2411.14172). Folding z into the bias is exact for any Q. Q is simulated: rounded values stay in floating
point.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Linear
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.sigma_lookup import LOOKUPS
from taqmlx.planning.layers import Layer

# x (..., in) to (..., out), without bias
Product = Callable[[mx.array], mx.array]


class PackedWeight(NamedTuple):
    """A weight (out, in) in MLX's affine format: codes uint32, scales and biases (out, in / group_size).

    Scales and biases have the type they are stored in: a product with an input of that type is computed in it.
    """

    codes: mx.array
    scales: mx.array
    biases: mx.array
    bits: int
    group_size: int


def multiply_matrix(weight: mx.array) -> Product:
    """Product with a full-precision weight (out, in)."""
    transposed = weight.T
    return lambda x: x @ transposed


def multiply_dense(weight: PackedWeight) -> Product:
    """Product with the dequantized fp32 matrix: on a CPU about 40 times faster than a product from the codes."""
    codes, scales, biases, bits, group_size = weight
    exact = scales.astype(mx.float32), biases.astype(mx.float32)
    return multiply_matrix(mx.dequantize(codes, *exact, group_size=group_size, bits=bits))


def multiply_packed(weight: PackedWeight) -> Product:
    """Product from the codes, with MLX's quantized kernel."""
    codes, scales, biases, bits, group_size = weight
    return lambda x: mx.quantized_matmul(x, codes, scales, biases, transpose=True, group_size=group_size, bits=bits)


PRODUCTS = {mx.cpu: multiply_dense, mx.gpu: multiply_packed}


def fold_shift(quantizer: InputQuantizer, product: Product, bias: mx.array | None) -> mx.array | None:
    """Folded bias b' = b + W' (z / m), (out,), evaluated; b unchanged if there is no shift."""
    shift = quantizer.scale_shift()
    if shift is None:
        return bias
    constant = product(shift[None])[0]  # (1, out) -> (out,)
    folded = constant if bias is None else bias + constant
    mx.eval(folded)
    return folded


class QuantizedLinears:
    """All linear layers of a model by name; `at(sigma)` returns those of one noise level.

    weights: fp32 (out, in) or packed; biases: (out,) or None; inputs: quantizers of the layers that have one, all by
    layer name; sigmas (K,): noise levels of the step sizes; lookup: `nearest` or `interpolated`. Raises ValueError if
    step sizes or bits do not match the sigmas.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        weights: Mapping[str, mx.array | PackedWeight],
        biases: Mapping[str, mx.array | None],
        inputs: Mapping[str, InputQuantizer],
        sigmas: np.ndarray,
        lookup: str,
    ):
        check_steps(inputs, len(sigmas))
        self.sigmas, self.weigh = np.asarray(sigmas), LOOKUPS[lookup]
        # Layers with equal quantizers share one, so that q, k and v can share its output.
        distinct: dict[tuple[object, ...], InputQuantizer] = {}
        self.quantizers, self.products, self.biases = {}, {}, {}
        for name in (layer.name for layer in layers):
            own = inputs.get(name, InputQuantizer())
            quantizer = distinct.setdefault(own.identity, own)
            self.quantizers[name], self.products[name] = quantizer, bind_product(weights[name])
            self.biases[name] = fold_shift(quantizer, self.products[name], biases[name])

    def at(self, sigma: float) -> Linear:
        """`linear(name, x)` at one noise level, x (..., in) -> (..., out)."""
        weights = self.weigh(sigma, self.sigmas)
        forwards = {quantizer: quantizer.bind(weights) for quantizer in dict.fromkeys(self.quantizers.values())}
        # Last quantized input, because q, k and v use one input consecutively. Arrays are compared by identity, so that
        # no other input can match.
        last: tuple[InputQuantizer, mx.array, mx.array] | None = None

        def linear(name: str, x: mx.array) -> mx.array:
            nonlocal last
            quantizer, bias = self.quantizers[name], self.biases[name]
            if last is None or last[0] is not quantizer or last[1] is not x:
                last = quantizer, x, forwards[quantizer](x)
            y = self.products[name](last[2])
            return y if bias is None else y + bias

        return linear


def check_steps(inputs: Mapping[str, InputQuantizer], knots: int) -> None:
    """Raise ValueError unless every table of step sizes, or of bits, has `knots` entries."""
    for name, quantizer in inputs.items():
        policy, bits, steps = quantizer.policy, quantizer.bits, quantizer.step_sizes
        if policy == "lut" and len(steps) != knots:
            raise ValueError(f"{name} has {len(steps)} steps for {knots} noise levels")
        if not isinstance(bits, int) and (policy, len(bits)) != ("lut", knots):
            raise ValueError(f"{name} has {len(bits)} bit widths; only a table of {knots} steps can have them")


def bind_product(weight: mx.array | PackedWeight) -> Product:
    """Product with a weight in the fastest form for the default device."""
    return PRODUCTS[mx.default_device().type](weight) if isinstance(weight, PackedWeight) else multiply_matrix(weight)
