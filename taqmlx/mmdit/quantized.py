"""Quantized inference: linear layers with quantized weights, and inputs quantized with the step sizes of a noise level.

    y = W' Q((x - z) / m; S(sigma)) + b',    b' = b + W' (z / m)

W' is the quantized weight, with the migration m in its columns; z is the shift and S the step size (TaQ-DiT, Liu et al.
2024, arXiv 2411.14172). Folding z into the bias is exact for any Q. Q is simulated: rounded values stay in floating
point.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Linear
from taqmlx.numerics.activation import PER_TOKEN, compute_token_step, look_up_step, quantize_dequantize
from taqmlx.numerics.knots import LOOKUPS
from taqmlx.planning.layer_rules import UNQUANTIZED, GroupSize
from taqmlx.planning.layers import Layer

# x (..., in) to (..., out), without bias
Product = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class InputGrid:
    """Quantizer of a layer's input.

    policy: `lut` with steps float32 (K,), `static` with steps (1,), `dynamic` (step sizes per token) or `none` (not
    quantized); shift float32 (in,) and migration int32 (in,), or None; bits: one bit width, or K for a table;
    group_size: for a dynamic policy, the number of channels of a token that share a step size, or PER_TOKEN.
    """

    bits: int | tuple[int, ...]
    policy: str
    steps: np.ndarray | None = None
    shift: np.ndarray | None = None
    migration: np.ndarray | None = None
    group_size: GroupSize = PER_TOKEN

    @property
    def identity(self) -> tuple[object, ...]:
        """Key that is equal for equal quantizers."""
        arrays = (self.steps, self.shift, self.migration)
        return (
            self.bits,
            self.policy,
            self.group_size,
            *(None if array is None else array.tobytes() for array in arrays),
        )


class PackedWeight(NamedTuple):
    """A weight (out, in) in MLX's affine format: codes uint32, scales and biases fp32 (out, in / group_size)."""

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
    return multiply_matrix(mx.dequantize(codes, scales, biases, group_size=group_size, bits=bits))


def multiply_packed(weight: PackedWeight) -> Product:
    """Product from the codes, with MLX's quantized kernel."""
    codes, scales, biases, bits, group_size = weight
    return lambda x: mx.quantized_matmul(x, codes, scales, biases, transpose=True, group_size=group_size, bits=bits)


PRODUCTS = {mx.cpu: multiply_dense, mx.gpu: multiply_packed}


class Reader:
    """Quantized layer input Q((x - z) / m), shared by layers with the same quantizer."""

    def __init__(self, grid: InputGrid):
        self.grid = grid
        self.shift, self.migration = (
            None if array is None else mx.array(array.astype(np.float32)) for array in (grid.shift, grid.migration)
        )

    def choose_step(self, weights: np.ndarray) -> tuple[float | None, int]:
        """Step size and bits for knots with weights (K,); the step size is None if it depends on the input."""
        bits, steps = self.grid.bits, self.grid.steps
        if self.grid.policy == "lut" and steps is not None:
            return look_up_step(weights, steps, bits)
        return None if steps is None else float(steps[0]), cast(int, bits)  # several bit widths only in a table

    def read(self, x: mx.array, step: float | None, bits: int) -> mx.array:
        """x (..., in) shifted, divided by the migration and quantized, in the same shape."""
        if self.shift is not None:
            x = x - self.shift
        if self.migration is not None:
            x = x / self.migration
        if self.grid.policy == "none":
            return x
        return quantize_dequantize(x, compute_token_step(x, bits, self.grid.group_size) if step is None else step, bits)

    def fold(self, product: Product, bias: mx.array | None) -> mx.array | None:
        """Folded bias b' = b + W' (z / m), (out,), evaluated; b unchanged if there is no shift."""
        if self.shift is None:
            return bias
        centre = self.shift if self.migration is None else self.shift / self.migration
        constant = product(centre[None])[0]  # (1, out) -> (out,)
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
        inputs: Mapping[str, InputGrid],
        sigmas: np.ndarray,
        lookup: str,
    ):
        check_steps(inputs, len(sigmas))
        self.sigmas, self.weigh = np.asarray(sigmas), LOOKUPS[lookup]
        # Layers with equal quantizers share one reader, so that q, k and v can share its output.
        readers: dict[tuple[object, ...], Reader] = {}
        self.readers, self.products, self.biases = {}, {}, {}
        for name in (layer.name for layer in layers):
            grid = inputs.get(name, AS_GIVEN)
            reader = readers.setdefault(grid.identity, Reader(grid))
            self.readers[name], self.products[name] = reader, bind_product(weights[name])
            self.biases[name] = reader.fold(self.products[name], biases[name])

    def at(self, sigma: float) -> Linear:
        """`linear(name, x)` at one noise level, x (..., in) -> (..., out)."""
        weights = self.weigh(sigma, self.sigmas)
        steps = {reader: reader.choose_step(weights) for reader in self.readers.values()}
        # Last quantized input, because q, k and v use one input consecutively. Arrays are compared by identity, so that
        # no other input can match.
        last: tuple[Reader, mx.array, mx.array] | None = None

        def linear(name: str, x: mx.array) -> mx.array:
            nonlocal last
            reader, bias = self.readers[name], self.biases[name]
            if last is None or last[0] is not reader or last[1] is not x:
                last = reader, x, reader.read(x, *steps[reader])
            y = self.products[name](last[2])
            return y if bias is None else y + bias

        return linear


AS_GIVEN = InputGrid(UNQUANTIZED, "none")


def check_steps(inputs: Mapping[str, InputGrid], knots: int) -> None:
    """Raise ValueError unless every table of step sizes, or of bits, has `knots` entries."""
    for name, grid in inputs.items():
        steps = 0 if grid.steps is None else len(grid.steps)
        if grid.policy == "lut" and steps != knots:
            raise ValueError(f"{name} has {steps} steps for {knots} noise levels")
        if not isinstance(grid.bits, int) and (grid.policy, len(grid.bits)) != ("lut", knots):
            raise ValueError(f"{name} has {len(grid.bits)} bit widths; only a table of {knots} steps can have them")


def bind_product(weight: mx.array | PackedWeight) -> Product:
    """Product with a weight in the fastest form for the default device."""
    return PRODUCTS[mx.default_device().type](weight) if isinstance(weight, PackedWeight) else multiply_matrix(weight)
