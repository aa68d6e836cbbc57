"""How far a block's outputs go astray when one thing in it is rounded: one layer's weight, or what layers read.

All else is in full precision, and the outputs are compared with those of full precision on the same rows. What a
change does not reach is computed once and shared by all that is tried of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import run_block
from taqmlx.numerics.footprint import limit_batch
from taqmlx.planning.layers import UNIFIED, Layer
from taqmlx.reconstruction.block_problem import (
    STREAMS,
    BlockProblem,
    Quantize,
    Rows,
    bind_block,
    count_tokens,
    take_rows,
)

PAIRS = 16  # of rows at a time, at most, since some rows go in pairs; what changes share is kept for as many
KEPT = 16  # tensors (T, D) of a row held besides: inputs, targets and what changes share

# What a change of a layer reaches after it, by role; the attention, between q, k, v and o, mixes the streams.
_AFTER = {
    "adaLN": {"qkv", "o", "fc1", "fc2"},
    "qkv": {"o", "fc1", "fc2"},
    "o": {"fc1", "fc2"},
    "fc1": {"fc2"},
    "fc2": set(),
}
# In a unified block the MLP lies beside the attention.
_BESIDE = _AFTER | {"qkv": {"o"}, "o": set()}
_BEFORE_ATTENTION = ("adaLN", "qkv")

# What a change makes of a batch: (rows, their indices) -> weights by layer, what products see of inputs, rows
Change = Callable[[Rows[mx.array], np.ndarray], tuple[Mapping[str, mx.array], Quantize, Rows[mx.array]]]
# The block's outputs on the rows at some indices -> what is compared, by name
Finish = Callable[[dict[str, mx.array], np.ndarray], dict[str, mx.array]]


class RowErrors(NamedTuple):
    """By what is compared: squared errors float64 (changes, R) and the squares of full precision (R,), by row."""

    errors: dict[str, np.ndarray]
    powers: dict[str, np.ndarray]

    def relate(self, where: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """The relative squared error of each change over the rows at `where`, float64 (changes,), by name."""
        return {name: self.errors[name][:, where].sum(axis=1) / self.powers[name][where].sum() for name in self.errors}


def count_together(problem: BlockProblem) -> int:
    """How many rows are measured together: at most PAIRS pairs, as many as memory allows."""
    return 2 * limit_batch(PAIRS, *count_tokens(problem), rows=2, kept=KEPT)


def list_pairs(problem: BlockProblem, where: np.ndarray) -> Iterator[np.ndarray]:
    """The indices of rows `where` in runs of those that are measured together."""
    size = count_together(problem)
    for start in range(0, len(where), size):
        yield where[start : start + size]


def leave(key: str, x: mx.array) -> mx.array:
    """Inputs as they are."""
    return x


def compare_streams(outputs: dict[str, mx.array], where: np.ndarray) -> dict[str, mx.array]:
    """The block's outputs themselves."""
    return outputs


def spread_rows(sigmas: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the rows of noise levels `sigmas` (R,), evenly spread over these, as ascending indices."""
    ordered = np.argsort(-sigmas, kind="stable")
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return np.sort(ordered[places])


def list_kept(layers: Sequence[Layer], changed: Sequence[Layer]) -> set[str]:
    """The names of those of a block's `layers` whose outputs stay when the layers `changed` change."""

    def is_reached(layer: Layer) -> bool:
        return any(reaches(cause, layer) for cause in changed)

    return {layer.name for layer in layers if layer not in changed and not is_reached(layer)}


def reaches(cause: Layer, layer: Layer) -> bool:
    """Whether a change of `cause` changes what `layer` reads, in the same block."""
    after = _BESIDE if cause.stream == UNIFIED else _AFTER
    mixes = cause.role in _BEFORE_ATTENTION and layer.role != "qkv"
    return layer.role in after[cause.role] and (layer.stream == cause.stream or mixes)


def measure_changes(
    problem: BlockProblem, where: np.ndarray, kept: set[str], changes: Sequence[Change], finish: Finish
) -> RowErrors:
    """The errors of `changes`, none of which reaches the layers `kept`, on the rows at `where` (R,)."""
    errors: dict[str, list[np.ndarray]] = {}
    powers: dict[str, list[np.ndarray]] = {}
    for batch in list_pairs(problem, where):
        rows = take_rows(problem.rows, batch)
        exact: dict[str, mx.array] = {}
        outputs = run_kept(problem, problem.weights, leave, rows, exact)
        shared = {name: exact[name] for name in kept}
        reference = finish(outputs, batch)
        mx.eval(shared, reference)
        del exact
        measured = []
        for change in changes:
            outputs = run_kept(problem, *change(rows, batch), dict(shared))
            found = finish(outputs, batch)
            measured.append({name: np.array(sum_squares(found[name] - value)) for name, value in reference.items()})
        for name, value in reference.items():
            errors.setdefault(name, []).append(np.stack([row[name] for row in measured]))
            powers.setdefault(name, []).append(np.array(sum_squares(value)))
    return RowErrors(
        {name: np.concatenate(parts, axis=1, dtype=np.float64) for name, parts in errors.items()},
        {name: np.concatenate(parts, dtype=np.float64) for name, parts in powers.items()},
    )


def sum_squares(x: mx.array) -> mx.array:
    """The sum of squares of each row of `x` (B, ...), (B,)."""
    return mx.square(x).sum(axis=tuple(range(1, x.ndim)))


def run_kept(
    problem: BlockProblem,
    weights: Mapping[str, mx.array],
    quantize: Quantize,
    rows: Rows[mx.array],
    outputs: dict[str, mx.array],
) -> dict[str, mx.array]:
    """The block's outputs by stream, taking the layers' `outputs` (by name) that are there and adding the others.

    Nothing that only leads to an output that is there is computed, as MLX is lazy.
    """
    inner = bind_block(problem, weights, quantize)

    def linear(name: str, x: mx.array) -> mx.array:
        if name not in outputs:
            outputs[name] = inner(name, x)
        return outputs[name]

    streams = run_block(linear, problem.block, rows.image, rows.text, rows.modulations)
    return {name: part for name, part in zip(STREAMS, streams, strict=True) if part is not None}
