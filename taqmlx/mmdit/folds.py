"""Application of folds to an MMDiT's weights: pure functions from weights to weights, by DiffusionKit's names.

vector (D,) of a fold, by kind: `scale`, the divisors of the input's channels; `centre`, what is subtracted from them;
`permutation`, the old index of each new channel; `rotation`, signs, made before a Hadamard transform of each head. Each
is computed in fp32 and returned in the weights' dtype: in fp32 all are exact, up to rounding; in 16 bits scales and
permutations of weights are.
"""

from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np

from taqmlx.numerics.folding import build_hadamard
from taqmlx.planning.folds import FoldKind, Site
from taqmlx.store.errors import UserError

Weights = Mapping[str, mx.array]


def apply_fold(weights: Weights, site: Site, kind: FoldKind, vector: np.ndarray, heads: int) -> dict[str, mx.array]:
    """The weights that a fold changes, changed, by name; heads: number of attention heads.

    Raises UserError if the model has no bias that the fold needs, or heads that it cannot rotate.
    """
    reject_missing_bias(weights, site, kind)
    if kind == "centre":
        return move_centre(weights, site, vector)
    readers = {f"{layer.path}.weight" for layer in site.readers}
    names = readers | {
        name for layer in site.writers for name in (f"{layer.path}.weight", f"{layer.path}.bias") if name in weights
    }
    change_writer, change_reader = bind_changes(weights, site, kind, mx.array(vector), heads)
    return {
        name: (change_reader if name in readers else change_writer)(weights[name].astype(mx.float32)).astype(
            weights[name].dtype
        )
        for name in sorted(names)
    }


def reject_missing_bias(weights: Weights, site: Site, kind: FoldKind) -> None:
    """Raise UserError if a layer has no bias that the fold changes: adaLN layers for a scale, all for a centre."""
    for layer in (*site.writers, *site.readers):
        is_changed = kind == "centre" or layer.role == "adaLN"
        if is_changed and f"{layer.path}.bias" not in weights:
            raise UserError(
                f"folds: {layer.name} has no bias, which a {kind} of {site.name} changes; leave this layer out of folds"
            )


def bind_changes(
    weights: Weights, site: Site, kind: FoldKind, vector: mx.array, heads: int
) -> tuple[Callable[[mx.array], mx.array], Callable[[mx.array], mx.array]]:
    """What a fold does to the rows (weights and biases) of a writer, and to the columns (weights) of a reader."""
    if kind == "permutation":
        return lambda rows: rows[vector], lambda weight: weight[:, vector]
    if kind == "rotation":
        return lambda rows: rotate_rows(rows, vector, heads), lambda weight: rotate_rows(weight.T, vector, heads).T
    if site.writers[0].role == "adaLN":
        return lambda rows: scale_modulation(rows, vector, site.part), lambda weight: weight * vector
    return lambda rows: (rows.T / vector).T, lambda weight: weight * vector


def move_centre(weights: Weights, site: Site, centre: np.ndarray) -> dict[str, mx.array]:
    """Biases of the writers of an input that loses `centre` (D,), and of its readers, whose outputs stay, by name.

    The values of all tokens lose the same, and so does their mean by attention.
    """
    moved, width = mx.array(centre), len(centre)
    changed = {}
    for layer in site.writers:
        bias = weights[f"{layer.path}.bias"].astype(mx.float32)
        first = site.part * width if layer.role == "adaLN" else 0
        changed[f"{layer.path}.bias"] = bias.at[first : first + width].subtract(moved)
    for layer in site.readers:
        bias, weight = (weights[f"{layer.path}.{part}"].astype(mx.float32) for part in ("bias", "weight"))
        changed[f"{layer.path}.bias"] = bias + weight @ moved
    return {name: bias.astype(weights[name].dtype) for name, bias in changed.items()}


def scale_modulation(rows: mx.array, scales: mx.array, part: int) -> mx.array:
    """adaLN rows (n D, D) or biases (n D,) of a norm that is divided by `scales` (D,).

    The norm is LN(x) (1 + scale) + shift, so the bias b of its scale becomes (b + 1) / s - 1. part: index of the shift;
    the scale follows.
    """
    width = len(scales)
    before, shift, scale, after = mx.split(rows, [part * width, (part + 1) * width, (part + 2) * width])
    added = 1.0 if rows.ndim == 1 else 0.0
    return mx.concatenate([before, (shift.T / scales).T, ((scale + added).T / scales).T - added, after])


def rotate_rows(rows: mx.array, signs: mx.array, heads: int) -> mx.array:
    """Rows (D, ...) of the heads, times their signs (D,), through the Hadamard matrix of a head. Raises UserError."""
    try:
        matrix = mx.array(build_hadamard(len(rows) // heads))
    except ValueError as error:
        raise UserError(f"folds: {error}; leave the rotation out of folds") from None
    signed = (rows.T * signs).T.reshape(heads, len(matrix), -1)
    return (matrix @ signed).reshape(rows.shape)
