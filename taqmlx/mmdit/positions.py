"""Positions of image tokens: a learned table added to the tokens, or a rotation of their queries and keys.

The rotation is RoPE (Su et al. 2021, arXiv 2104.09864) with the axes of FLUX: one that is 0 for every image token, the
row, and the column. Text tokens have position 0 in all axes, so they are not rotated.
"""

import mlx.core as mx

from taqmlx.mmdit.transformer import Transformer


def crop_positions(model: Transformer, h: int, w: int) -> mx.array | None:
    """Central h x w part of the learned position table, (1, h w, D); None if positions are rotary."""
    if "x_pos_embedder" not in model:
        return None
    side = model.config.max_latent_resolution
    top, left = (side - h) // 2, (side - w) // 2
    table = model.x_pos_embedder.pos_embed.weight.reshape(1, side, side, -1)
    return table[:, top : top + h, left : left + w].reshape(1, h * w, -1)


def compute_rotation(model: Transformer, h: int, w: int) -> mx.array | None:
    """Cosines and sines (h w, 2, head dim / 2) fp32 of the angles of h x w image tokens; None for a learned table."""
    if "x_pos_embedder" in model:
        return None
    rope = model.pre_sdpa_rope
    rows, columns = mx.repeat(mx.arange(h), w), mx.tile(mx.arange(w), h)
    angles = [
        place[:, None] / (rope.theta ** (mx.arange(0, size, 2, dtype=mx.float32) / size))
        for place, size in zip((mx.zeros_like(rows), rows, columns), rope.axes_dim, strict=True)
    ]
    joined = mx.concatenate(angles, axis=-1)  # (h w, head dim / 2)
    return mx.stack([mx.cos(joined), mx.sin(joined)], axis=1)


def rotate(x: mx.array, rotation: mx.array | None) -> mx.array:
    """Queries or keys x (B, heads, N + T, head dim) with the first N tokens, those of the image, rotated.

    Adjacent channels form a pair; each pair is rotated by its angle in `rotation` (N, 2, head dim / 2).
    """
    if rotation is None:
        return x
    image, text = mx.split(x, [len(rotation)], axis=2)
    pairs = image.astype(mx.float32).reshape(*image.shape[:-1], -1, 2)
    a, b, cos, sin = pairs[..., 0], pairs[..., 1], rotation[:, 0], rotation[:, 1]
    turned = mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(image.shape)
    return mx.concatenate([turned.astype(x.dtype), text], axis=2)
