"""Memory of a given transformer: batch sizes that fit, and checks of the machine's memory."""

from collections.abc import Sequence

from mlx.utils import tree_flatten

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.forward import measure_shapes
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.footprint import (
    BATCH_BYTES,
    PARTS,
    Learning,
    count_learning_bytes,
    estimate_distillation,
    estimate_distillation_by_block,
    estimate_forward,
    estimate_search,
    limit_batch,
)
from taqmlx.planning.layers import list_block_linears
from taqmlx.store.preflight import check_memory

# Advice for a job whose batch already adapts to the model's size.
SMALLER = "lower height and width, disable T5 (use_t5: false), or use a machine with more"


def choose_batch(transformer: Transformer, latent_shape: Sequence[int], cs_shape: Sequence[int], most: int) -> int:
    """Number of latents (h, w, c) per batch, up to `most`, each under the conditions of a prompt in cs (n, C, T, D)."""
    tokens = count_tokens(transformer, latent_shape, cs_shape[2])
    return limit_batch(most, tokens, transformer.config.hidden_size, rows=cs_shape[1])


def choose_learned_batch(
    transformer: Transformer, latent_shape: Sequence[int], cs_shape: Sequence[int], most: int
) -> int:
    """Number of latents per batch as of `choose_batch`, with gradients of one block."""
    return min(most, max(1, BATCH_BYTES // (cs_shape[1] * count_learned_row(transformer, latent_shape, cs_shape[2]))))


def count_tokens(transformer: Transformer, latent_shape: Sequence[int], tokens: int) -> int:
    """Number of tokens in a row's attention: patches of the latent (h, w, c), plus the text's `tokens`."""
    return measure_shapes(transformer.config, latent_shape, tokens)["image_shape"][0] + tokens


def check_forward(
    transformer: Transformer, latent_shape: Sequence[int], tokens: int, rows: int, job: str, advice: str = SMALLER
) -> None:
    """Raise UserError if this machine lacks the memory to run `transformer` on `rows` rows at a time.

    A row is a latent (h, w, c) with a text of `tokens` tokens. The check reads no weights.
    """
    weights = list(dict(tree_flatten(transformer.parameters())).values())
    size, itemsize = sum(value.nbytes for value in weights), weights[0].itemsize
    seen = count_tokens(transformer, latent_shape, tokens)
    check_memory(estimate_forward(rows, seen, transformer.config.hidden_size, size, itemsize), job, advice)


def needs_recomputing(transformer: Transformer, latent_shape: Sequence[int], tokens: int, rows: int) -> bool:
    """True if the gradients of all blocks on `rows` rows need too much memory, so that blocks must be recomputed."""
    return rows * count_blocks(transformer) * count_learned_row(transformer, latent_shape, tokens) > BATCH_BYTES


def check_distillation(
    transformer: Transformer, latent_shape: Sequence[int], cs_shape: Sequence[int], batch: int, kind: str
) -> None:
    """Raise UserError if this machine lacks the memory to learn the whole `transformer` on `batch` points at a time.

    The points are latents (h, w, c), each under the conditions of a prompt in cs (n, C, T, D); kind: `codes` or
    `scales`.
    """
    rows, tokens = cs_shape[1] * batch, cs_shape[2]
    if needs_recomputing(transformer, latent_shape, tokens, rows):
        batch_size = choose_batch(transformer, latent_shape, cs_shape, batch), -(-batch // PARTS)
        sizes = describe_learning(
            transformer, latent_shape, tokens, cs_shape[1] * max(batch_size), cs_shape[1] * batch_size[1]
        )
        needed = estimate_distillation_by_block(sizes, kind)
    else:
        every = rows * count_blocks(transformer) * count_learned_row(transformer, latent_shape, tokens)
        needed = estimate_distillation(count_parameters(transformer), kind, every)
    check_memory(needed, "distillation", f"lower distil_batch, set distil to scales, or {SMALLER}")


def check_search(
    transformer: Transformer, latent_shape: Sequence[int], cs_shape: Sequence[int], forward: int, gradient: int
) -> None:
    """Raise UserError if this machine lacks the memory for the bit search, with the given points in a gradient.

    The points are as of `check_distillation`.
    """
    rows = (cs_shape[1] * batch_size for batch_size in (forward, gradient))
    sizes = describe_learning(transformer, latent_shape, cs_shape[2], *rows)
    check_memory(estimate_search(sizes), "measuring rounding costs", SMALLER)


def describe_learning(
    transformer: Transformer, latent_shape: Sequence[int], tokens: int, forward: int, gradient: int
) -> Learning:
    """Sizes of gradients by block, with the given rows in a forward or gradient. Reads no weights."""
    config = transformer.config
    blocks = list_block_linears(config.depth_multimodal, config.depth_unified)
    first = [resolve_module(transformer, layer.path)["weight"] for layer in blocks if layer.block == blocks[0].block]
    return Learning(
        weights=count_parameters(transformer),
        block=sum(weight.size for weight in first),
        itemsize=first[0].itemsize,
        blocks=count_blocks(transformer),
        tokens=count_tokens(transformer, latent_shape, tokens),
        width=config.hidden_size,
        forward=forward,
        gradient=gradient,
    )


def count_parameters(transformer: Transformer) -> int:
    """Number of parameters of a transformer. Reads no weights."""
    return sum(value.size for value in dict(tree_flatten(transformer.parameters())).values())


def count_blocks(transformer: Transformer) -> int:
    """Number of blocks of a transformer."""
    return transformer.config.depth_multimodal + transformer.config.depth_unified


def count_learned_row(transformer: Transformer, latent_shape: Sequence[int], tokens: int) -> int:
    """Bytes of a row for the gradients of one block."""
    return count_learning_bytes(count_tokens(transformer, latent_shape, tokens), transformer.config.hidden_size)
