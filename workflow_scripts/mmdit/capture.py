"""Capturing what every block of the model reads, while it runs in full precision."""

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from workflow_scripts.mmdit.forward import Block, Linear, advance_block, begin_blocks, list_blocks
from workflow_scripts.mmdit.observe import Batch

# image (B, N, D) and text (B, T, D), float32, between two blocks; no text after the last
States = tuple[np.ndarray, np.ndarray | None]


def measure_shapes(config: Any, latent_shape: Sequence[int], tokens: int) -> dict[str, list[int]]:
    """`image_shape` (N, D) and `text_shape` (T, D) of a row, for latents (h, w, c) and prompts of `tokens` tokens."""
    height, width, _ = latent_shape
    patches = (height // config.patch_size) * (width // config.patch_size)
    return {"image_shape": [patches, config.hidden_size], "text_shape": [tokens, config.hidden_size]}


def assemble_pairs(xs: np.ndarray, timesteps: np.ndarray, cs: np.ndarray, cs_pooled: np.ndarray) -> Batch:
    """The batch of points `xs` (b, h, w, c), each at its own time step (b,), with its prompt and without: B = 2 b rows.

    cs (b, 2, T, D) and cs_pooled (b, 2, W) are the points' own conditions, [positive, negative]. Rows are all
    positives, then all negatives.
    """
    return Batch(
        latents=mx.array(np.concatenate([xs, xs]).astype(np.float32)),
        context=mx.array(np.concatenate([cs[:, 0], cs[:, 1]])),  # (B, T, D): nothing is shared between time steps
        pooled=mx.array(np.concatenate([cs_pooled[:, 0], cs_pooled[:, 1]])),
        timesteps=mx.array(np.concatenate([timesteps, timesteps]).astype(np.float32)),
        rows=mx.arange(2 * len(xs)),
    )


def capture_states(model: Any, linear: Linear, batch: Batch) -> tuple[np.ndarray, Iterator[States]]:
    """What the adaLN linears read for each row, (B, D) float32, and the states between blocks, one after the other.

    The first states are what the first block reads, the next ones its outputs, which the second reads; and last come
    the outputs of the last block. Raises UserError for an unsupported kind of transformer.
    """
    blocks = list_blocks(model.config)
    image, text, modulation = begin_blocks(model, linear, *batch)
    return np.array(modulation[batch.rows]), iterate_states(linear, blocks, image, text, modulation, batch.rows)


def iterate_states(
    linear: Linear, blocks: Sequence[Block], image: mx.array, text: mx.array, modulation: mx.array, rows: mx.array
) -> Iterator[States]:
    """The states before each of `blocks`, then those after the last; arguments as of `advance_block`."""
    for block in blocks:
        mx.eval(image, text)
        yield np.array(image), np.array(text)
        image, text = advance_block(linear, block, image, text, modulation, rows)
    yield np.array(image), None
