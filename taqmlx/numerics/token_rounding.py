"""Quantization of a layer input on grids that are measured from each token, or from each group of its channels.

`group_size` adjacent channels share a grid, as in GGUF's Q8_0 and in MX formats (Rouhani et al. 2023, arXiv
2310.10537). A symmetric grid covers the absmax. A centred one has both ends of the range, like the groups of MLX's
`quantize`.
"""

from typing import Final

import mlx.core as mx

from taqmlx.numerics import fused
from taqmlx.numerics.activation import SMALLEST_STEP, find_largest_code
from taqmlx.planning.layer_rules import GroupSize

PER_TOKEN: Final = "token"  # group size of one grid per token, shared by all its channels


def round_tokens(x: mx.array, bits: int, group_size: GroupSize, is_centred: bool) -> mx.array:
    """`x` (..., D) rounded in fp32, in its dtype; straight-through: its gradient is that of x.

    No value lies beyond the grid, so none is clipped. Raises ValueError unless `group_size` divides D.
    """

    @mx.custom_function
    def quantize(x: mx.array) -> mx.array:
        groups = split_groups(x.astype(mx.float32), group_size)
        low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
        if is_centred:
            centre = (low + high) / 2
            step = find_step(high - centre, bits)
            rounded = fused.round_about_centre(groups, centre, step)
        else:
            step = find_step(mx.maximum(high, -low), bits)
            rounded = fused.round_to_multiples(groups, step)
        return rounded.reshape(x.shape).astype(x.dtype)

    @quantize.vjp
    def pass_through(primals: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return cotangent

    return quantize(x)  # type: ignore[return-value]  # typed as object by MLX


def compute_token_step(x: mx.array, bits: int, group_size: GroupSize = PER_TOKEN) -> mx.array:
    """Step size float32 of the symmetric grid of each token of `x` (..., D), (..., 1), or of each group, (..., D).

    Raises ValueError unless `group_size` divides D.
    """
    groups = split_groups(mx.abs(x.astype(mx.float32)), group_size)
    step = find_step(groups.max(axis=-1), bits)
    return step if group_size == PER_TOKEN else mx.repeat(step, group_size, axis=-1)


def split_groups(x: mx.array, group_size: GroupSize) -> mx.array:
    """`x` (..., D) as (..., G, D / G), with G groups of channels."""
    width = x.shape[-1]
    size = width if group_size == PER_TOKEN else group_size
    if width % size:
        raise ValueError(f"{width} channels are not a multiple of the group size {size}")
    return x.reshape(*x.shape[:-1], -1, size)


def find_step(largest: mx.array, bits: int) -> mx.array:
    """Step size, positive, of the grid whose largest code is `largest`."""
    return mx.maximum(largest / find_largest_code(bits), SMALLEST_STEP)
