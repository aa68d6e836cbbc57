"""Test of MLX's products with packed weights, for every bit width and group size of a checkpoint.

MLX releases have had kernels that return wrong values for some sizes; a wrong kernel shows only in the pictures.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

ROWS = (1, 64, 4096)  # of the input: a vector, few rows, and the tokens of a picture of 1024 x 1024 pixels
OUTPUTS = 128  # outputs of a layer that are computed, at most; kernels differ by multiples of 128
# Largest error over the largest value, by the dtype of the input. Some devices multiply fp32 in TF32.
TOLERANCES = {mx.float32: 2e-3, mx.bfloat16: 3e-2}


class PackedLinear(NamedTuple):
    """Packed codes uint32, scales and zero points (out, in / group_size) float, and how they are stored."""

    weight: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    bits: int
    group_size: int


def find_wrong_products(layers: Mapping[str, PackedLinear]) -> Iterator[str]:
    """Yield a line for each kind of weight whose packed product differs from that with the dequantized weight.

    Of every bit width and group size, the layer with the fewest inputs is tested, in bf16 on a GPU, else in fp32.
    """
    kinds: dict[tuple[int, int], str] = {}
    for name in sorted(layers, key=lambda name: (layers[name].scales.shape[1] * layers[name].group_size, name)):
        kinds.setdefault((layers[name].bits, layers[name].group_size), name)
    dtype = mx.bfloat16 if mx.default_device().type == mx.gpu else mx.float32
    for name in kinds.values():
        for rows in ROWS:
            error = measure_product(layers[name], rows, dtype)
            if not error <= TOLERANCES[dtype]:
                yield (
                    f"{name}: MLX {mx.__version__} multiplies {rows} rows with the packed weight wrongly, by"
                    f" {error:.2g} of the largest value; use another version of MLX"
                )


def measure_product(layer: PackedLinear, rows: int, dtype: mx.Dtype) -> float:
    """Largest error of the packed product of random `rows` over the largest value of the dequantized one."""
    weight, *grid = (mx.array(np.ascontiguousarray(part[:OUTPUTS])) for part in layer[:3])
    scales, biases = (part.astype(dtype) for part in grid)
    how = {"group_size": layer.group_size, "bits": layer.bits}
    inputs = layer.scales.shape[1] * layer.group_size
    x = mx.random.normal((rows, inputs), key=mx.random.key(0)).astype(dtype)
    dense = mx.dequantize(weight, *(part.astype(mx.float32) for part in (scales, biases)), **how)
    wanted = x.astype(mx.float32) @ dense.T
    found = mx.quantized_matmul(x, weight, scales, biases, transpose=True, **how).astype(mx.float32)
    error = mx.abs(found - wanted).max() / mx.abs(wanted).max()
    return float(error)
