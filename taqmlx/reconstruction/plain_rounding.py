"""MLX's built-in quantization, `nn.quantize`: RTN of every linear layer on MLX's own grid."""

import mlx.core as mx

from taqmlx.mmdit.forward import bind_weights
from taqmlx.mmdit.sampling import LinearAt
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.planning.layers import Layer
from taqmlx.planning.plain_ways import Plain
from taqmlx.reconstruction.block_assembly import read_weights


def bind_plain(model: Transformer, plain: Plain) -> tuple[LinearAt, float]:
    """Linear layers of `model` as `nn.quantize` makes them from fp16 weights, and average bits per weight.

    A layer whose width is not a multiple of the group size is unchanged, as in `nn.quantize`.
    """
    layers = list_layers(model)
    weights, biases = read_weights(model, layers)
    size = total = 0
    for layer in layers:
        weight = weights[layer.name]
        parts = round_plain(layer, weight, plain)
        size += sum(part.nbytes for part in parts)
        total += weight.size
        if len(parts) > 1:
            codes, scales, zeros = parts
            bits = choose_bits(layer, plain)
            weights[layer.name] = mx.dequantize(
                codes, scales.astype(mx.float32), zeros.astype(mx.float32), group_size=plain.group_size, bits=bits
            )
    mx.eval(weights)
    linear = bind_weights(weights, biases)
    return lambda sigma: linear, 8 * size / total


def round_plain(layer: Layer, weight: mx.array, plain: Plain) -> tuple[mx.array, ...]:
    """Codes, scales and zero points of a weight (out, in); only the fp16 weight if the group size does not fit."""
    half = weight.astype(mx.float16)
    if weight.shape[1] % plain.group_size:
        return (half,)
    return tuple(mx.quantize(half, group_size=plain.group_size, bits=choose_bits(layer, plain)))


def choose_bits(layer: Layer, plain: Plain) -> int:
    """Bit width of a layer."""
    return plain.modulation_bits if layer.role == "adaLN" else plain.bits
