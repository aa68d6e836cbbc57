"""Capturing what every block of the model reads, while it runs in full precision."""

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Block, Linear, list_blocks
from taqmlx.mmdit.forward import advance_block, begin_blocks
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer

# image (B, N, D) and text (B, T, D), float32, between two blocks; no text after the last
States = tuple[np.ndarray, np.ndarray | None]


def assemble_rows(xs: np.ndarray, timesteps: np.ndarray, cs: np.ndarray, cs_pooled: np.ndarray) -> Batch:
    """The batch of points `xs` (b, h, w, c), each at its own time step (b,), under its C conditions: B = C b rows.

    cs (b, C, T, D) and cs_pooled (b, C, W) are the points' own conditions, [positive, negative], or [positive] without
    guidance. Rows are all positives, then all negatives.
    """
    count = cs.shape[1]
    return Batch(
        latents=mx.array(np.concatenate([xs] * count).astype(np.float32)),
        context=mx.array(np.concatenate(cs.swapaxes(0, 1))),  # (B, T, D): nothing is shared between time steps
        pooled=mx.array(np.concatenate(cs_pooled.swapaxes(0, 1))),
        timesteps=mx.array(np.concatenate([timesteps] * count).astype(np.float32)),
        rows=mx.arange(count * len(xs)),
    )


def capture_states(model: Transformer, linear: Linear, batch: Batch) -> tuple[np.ndarray, Iterator[States]]:
    """What the adaLN linears read for each row, (B, D) float32, and the states between blocks, one after the other.

    The first states are what the first block reads, the next ones its outputs, which the second reads; and last come
    the outputs of the last block. Raises UserError for an unsupported kind of transformer.
    """
    blocks = list_blocks(model, batch.latents.shape[1:])
    image, text, modulation = begin_blocks(model, linear, *batch)
    return as_array(modulation[batch.rows]), iterate_states(linear, blocks, image, text, modulation, batch.rows)


def iterate_states(
    linear: Linear,
    blocks: Sequence[Block],
    image: mx.array,
    text: mx.array | None,
    modulation: mx.array,
    rows: mx.array,
) -> Iterator[States]:
    """The states before each of `blocks`, then those after the last; arguments as of `advance_block`."""
    for block in blocks:
        mx.eval(image, text)
        yield as_array(image), None if text is None else as_array(text)
        image, text = advance_block(linear, block, image, text, modulation, rows)
    yield as_array(image), None


def as_array(x: mx.array) -> np.ndarray:
    """x in single precision, as NumPy has no bfloat16."""
    return np.array(x.astype(mx.float32))
