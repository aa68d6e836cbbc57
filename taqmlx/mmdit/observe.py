"""Statistics of the inputs of every linear layer in a full-precision forward."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.forward import predict_velocity
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.sketch import sample_rows
from taqmlx.numerics.statistics import ChannelStatistics, combine_rows, reduce_tokens
from taqmlx.planning.layers import Layer

Linear = Callable[[str, mx.array], mx.array]

# Layers with the conditions as input; a batch holds each condition once, even if several rows share it.
CONDITION_ROLES = {"adaLN", "embedder"}


class Batch(NamedTuple):
    """Inputs of one forward.

    latents (B, h, w, c); per condition: context (U, T, D), pooled (U, W), timesteps (U,); rows (B,): indices of
    conditions.
    """

    latents: mx.array
    context: mx.array
    pooled: mx.array
    timesteps: mx.array
    rows: mx.array


class Reduced(NamedTuple):
    """One linear input of a batch: the first layer with it, statistics, sample (S, K) of S rows, row means (B, D)."""

    layer: str
    channels: ChannelStatistics
    sample: np.ndarray
    means: np.ndarray


def assemble_batch(
    xs: np.ndarray, prompts: np.ndarray, timestep: float, cs: np.ndarray, cs_pooled: np.ndarray
) -> Batch:
    """Batch of points `xs` (b, h, w, c) at one timestep, each under its C conditions: B = C b rows.

    `prompts` (b,) indexes `cs` (P, C, T, D) and `cs_pooled` (P, C, W), whose second axis is [positive, negative], or
    [positive] without guidance. Rows are all positives, then all negatives. The conditions of a prompt shared by
    several points are computed once.
    """
    count = cs.shape[1]
    unique, position = np.unique(prompts, return_inverse=True)
    conditions = cs[unique].reshape(-1, *cs.shape[2:])  # (u, C, T, D) -> (U, T, D)
    pooled = cs_pooled[unique].reshape(-1, cs_pooled.shape[-1])  # (u, C, W) -> (U, W)
    return Batch(
        latents=mx.array(np.concatenate([xs] * count).astype(np.float32)),
        context=mx.array(conditions.astype(np.float32)),
        pooled=mx.array(pooled.astype(np.float32)),
        timesteps=mx.full((len(pooled),), timestep, mx.float32),
        rows=mx.array(np.concatenate([count * position + place for place in range(count)]).astype(np.int32)),
    )


def observe_batch(
    model: Transformer, linear: Linear, layers: Sequence[Layer], batch: Batch, sketched: np.ndarray | None = None
) -> Iterator[tuple[str, Reduced]]:
    """Reduced inputs of the forward on `batch` by name, in the order of first use; q, k and v share one input.

    `linear` computes the layers. An input counts once per row of the batch, also where rows share a condition. Each
    input is reduced when its layer is called, so that it can be freed after its use. sketched (b,) bool: points whose
    rows are sampled, all if not given.
    """
    by_name = {layer.name: layer for layer in layers}
    sampled = find_rows(sketched, len(batch.rows))
    seen: dict[str, tuple[str, int, dict[str, mx.array]]] = {}

    def observing(name: str, x: mx.array) -> mx.array:
        layer = by_name[name]
        if layer.input not in seen:
            per_row = x[batch.rows] if layer.role in CONDITION_ROLES else x
            per_row = per_row.reshape(len(batch.rows), -1, x.shape[-1])  # (B, D) or (B, N, D) -> (B, N, D)
            seen[layer.input] = name, per_row.shape[1], reduce_tokens(per_row)
            if len(sampled):
                seen[layer.input][2]["sample"] = sample_rows(per_row)[sampled]
            mx.eval(seen[layer.input][2])
        return linear(name, x)

    predict_velocity(model, observing, *batch)
    for read, (name, tokens, arrays) in seen.items():
        reduced = {key: np.array(value) for key, value in arrays.items()}
        sample = reduced.get("sample", np.empty((0, 0), np.float32))
        yield read, Reduced(name, combine_rows(reduced, tokens), sample, reduced["mean"])


def find_rows(points: np.ndarray | None, rows: int) -> mx.array:
    """Indices (S,) of those of `rows` rows that are of `points` (b,) bool, or of all; rows as in `assemble_batch`."""
    chosen = np.ones(rows, bool) if points is None else np.tile(points, rows // len(points))
    return mx.array(np.flatnonzero(chosen).astype(np.int32))


def find_nonfinite_row(reduced: Reduced) -> int | None:
    """Index of the first row of the batch with a NaN or an infinity, or None."""
    # A mean propagates both, while MLX's min and max along an axis drop NaN.
    broken = np.flatnonzero(~np.isfinite(reduced.means).all(axis=-1))
    return int(broken[0]) if len(broken) else None
