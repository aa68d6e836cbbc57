"""Conversion between latents and patch tokens: a convolution in Stable Diffusion 3, a reshape and a product in FLUX.

The values of a patch are ordered (row, column, channel) in the former and (channel, row, column) in the latter.
"""

import mlx.core as mx

from taqmlx.mmdit.positions import crop_positions
from taqmlx.mmdit.transformer import Transformer, TransformerConfig

# Axes of (B, h, w, row, column, channel) in the order of a patch's values, and the inverse
_ORDERS = {False: (0, 1, 2, 3, 4, 5), True: (0, 1, 2, 5, 3, 4)}
_BACK = {False: (0, 1, 3, 2, 4, 5), True: (0, 1, 4, 2, 5, 3)}


def embed_latents(model: Transformer, latents: mx.array) -> mx.array:
    """Patch tokens (B, N, D) of latents (B, h, w, c), plus the position embedding if it is learned."""
    batch, height, width, channels = latents.shape
    size, projection = model.config.patch_size, model.x_embedder.proj
    h, w = height // size, width // size
    patches = latents.reshape(batch, h, size, w, size, channels).swapaxes(2, 3)  # (B, h, w, size, size, c)
    patches = patches.transpose(_ORDERS[model.config.patchify_via_reshape])
    patches = patches.reshape(batch, h * w, size * size * channels)
    # A convolution over whole patches is a product: (D, size, size, c) or (D, 1, 1, c size size) -> (D, c size size)
    weight = projection.weight.reshape(projection.weight.shape[0], -1)
    positions = crop_positions(model, h, w)
    return patches @ weight.T + (projection.bias if positions is None else projection.bias + positions)


def restore_latents(config: TransformerConfig, patches: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Latents of `shape` (B, h, w, c) from patch tokens (B, N, c size size)."""
    batch, height, width, channels = shape
    size, by_reshape = config.patch_size, config.patchify_via_reshape
    own = (channels, size, size) if by_reshape else (size, size, channels)
    grid = patches.reshape(batch, height // size, width // size, *own)
    return grid.transpose(_BACK[by_reshape]).reshape(shape)  # (B, h, size, w, size, c) -> (B, h, w, c)
