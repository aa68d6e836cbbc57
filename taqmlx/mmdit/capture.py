"""Capture of the inputs of every block in a full-precision forward."""

from collections.abc import Iterator, Sequence
from itertools import islice

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Block, Linear, build_blocks
from taqmlx.mmdit.forward import advance_block, begin_blocks
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer

# image (B, N, D) and text (B, T, D), float32, between two blocks; text is None after the last
States = tuple[np.ndarray, np.ndarray | None]


def assemble_rows(xs: np.ndarray, timesteps: np.ndarray, cs: np.ndarray, cs_pooled: np.ndarray) -> Batch:
    """Batch of points `xs` (b, h, w, c), each at its own timestep (b,), under its C conditions: B = C b rows.

    cs (b, C, T, D) and cs_pooled (b, C, W) are the conditions of each point, [positive, negative], or [positive]
    without guidance. Rows are all positives, then all negatives.
    """
    count = cs.shape[1]
    return Batch(
        latents=mx.array(np.concatenate([xs] * count).astype(np.float32)),
        context=mx.array(np.concatenate(cs.swapaxes(0, 1))),  # (B, T, D): timesteps share no conditions
        pooled=mx.array(np.concatenate(cs_pooled.swapaxes(0, 1))),
        timesteps=mx.array(np.concatenate([timesteps] * count).astype(np.float32)),
        rows=mx.arange(count * len(xs)),
    )


def capture_states(
    model: Transformer, linear: Linear, batch: Batch, span: range | None = None
) -> tuple[np.ndarray, Iterator[States]]:
    """adaLN inputs of each row, (B, D) float32, and an iterator over the states between the blocks of `span`.

    The first states are the inputs of the first block; each following pair is the outputs of a block, up to the last.
    span: indices of consecutive blocks, None for all; no block after them is run. Raises UserError if the transformer
    is not supported.
    """
    blocks = build_blocks(model, batch.latents.shape[1:])
    first, stop = (span.start, span.stop) if span else (0, len(blocks))
    image, text, modulation = begin_blocks(model, linear, *batch)
    states = iterate_states(linear, blocks[:stop], image, text, modulation, batch.rows)
    return as_array(modulation[batch.rows]), islice(states, first, None)


def iterate_states(
    linear: Linear,
    blocks: Sequence[Block],
    image: mx.array,
    text: mx.array | None,
    modulation: mx.array,
    rows: mx.array,
) -> Iterator[States]:
    """States before each of `blocks`, then those after the last; arguments as in `advance_block`."""
    for block in blocks:
        yield read_states(image, text)
        image, text = advance_block(linear, block, image, text, modulation, rows)
    yield read_states(image, text)


def read_states(image: mx.array, text: mx.array | None) -> States:
    """The states as arrays, evaluated together."""
    mx.eval(image, text)
    return as_array(image), None if text is None else as_array(text)


def as_array(x: mx.array) -> np.ndarray:
    """x as a float32 NumPy array; NumPy has no bfloat16."""
    return np.array(x.astype(mx.float32))
