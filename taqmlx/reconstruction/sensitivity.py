"""Output error of a block when one of its layers is changed: a quantized weight, or quantized layer inputs.

Everything else is in full precision, and outputs are compared with full precision on the same rows. Layer outputs that
a change does not affect are computed once and shared by all changes.
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

PAIRS = 16  # pairs of rows per batch, at most, because some rows come in pairs; shared outputs are kept for as many
KEPT = 16  # further tensors (T, D) per row: inputs, targets and shared layer outputs

# Roles affected by a change of a layer, by its role; the attention, between q, k, v and o, mixes the streams.
_AFTER = {
    "adaLN": {"qkv", "o", "fc1", "fc2"},
    "qkv": {"o", "fc1", "fc2"},
    "o": {"fc1", "fc2"},
    "fc1": {"fc2"},
    "fc2": set(),
}
# In a unified block the MLP is parallel to the attention.
_BESIDE = _AFTER | {"qkv": {"o"}, "o": set()}
_BEFORE_ATTENTION = ("adaLN", "qkv")

# Change of a batch: (rows, their indices) -> weights by layer, quantization of layer inputs, rows
Change = Callable[[Rows[mx.array], np.ndarray], tuple[Mapping[str, mx.array], Quantize, Rows[mx.array]]]
# Function of the block outputs on rows and the rows' indices -> arrays to compare, by name
Finish = Callable[[dict[str, mx.array], np.ndarray], dict[str, mx.array]]


class RowErrors(NamedTuple):
    """Squared errors float64 (changes, R) and squares of full precision (R,), by name of the compared array."""

    errors: dict[str, np.ndarray]
    powers: dict[str, np.ndarray]

    def relate(self, where: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """Relative squared error of each change over the rows at `where`, float64 (changes,), by name."""
        return {name: self.errors[name][:, where].sum(axis=1) / self.powers[name][where].sum() for name in self.errors}


def count_batch_rows(problem: BlockProblem) -> int:
    """Number of rows measured together: at most PAIRS pairs, as many as memory allows."""
    return 2 * limit_batch(PAIRS, *count_tokens(problem), rows=2, kept=KEPT)


def list_pairs(problem: BlockProblem, where: np.ndarray) -> Iterator[np.ndarray]:
    """Row indices `where` in batches of `count_batch_rows` rows."""
    size = count_batch_rows(problem)
    for start in range(0, len(where), size):
        yield where[start : start + size]


def identity(key: str, x: mx.array) -> mx.array:
    """Identity: `x` unquantized."""
    return x


def compare_streams(outputs: dict[str, mx.array], where: np.ndarray) -> dict[str, mx.array]:
    """Block outputs unchanged, to be compared by stream."""
    return outputs


def spread_rows(sigmas: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most `count` rows, ascending, evenly spread over the noise levels `sigmas` (R,)."""
    ordered = np.argsort(-sigmas, kind="stable")
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return np.sort(ordered[places])


def list_kept(layers: Sequence[Layer], changed: Sequence[Layer]) -> set[str]:
    """Names of those of a block's `layers` whose outputs are unaffected by a change of the layers `changed`."""

    def is_affected(layer: Layer) -> bool:
        return any(reaches(cause, layer) for cause in changed)

    return {layer.name for layer in layers if layer not in changed and not is_affected(layer)}


def reaches(cause: Layer, layer: Layer) -> bool:
    """True if a change of `cause` affects the input of `layer`, in the same block."""
    after = _BESIDE if cause.stream == UNIFIED else _AFTER
    mixes = cause.role in _BEFORE_ATTENTION and layer.role != "qkv"
    return layer.role in after[cause.role] and (layer.stream == cause.stream or mixes)


def measure_changes(
    problem: BlockProblem, where: np.ndarray, kept: set[str], changes: Sequence[Change], finish: Finish
) -> RowErrors:
    """Errors of `changes`, which leave the outputs of layers `kept` unaffected, on the rows at `where` (R,)."""
    errors: dict[str, list[np.ndarray]] = {}
    powers: dict[str, list[np.ndarray]] = {}
    for batch in list_pairs(problem, where):
        rows = take_rows(problem.rows, batch)
        exact: dict[str, mx.array] = {}
        outputs = run_kept(problem, problem.weights, identity, rows, exact)
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
    """Sum of squares of each row of `x` (B, ...), (B,)."""
    return mx.square(x).sum(axis=tuple(range(1, x.ndim)))


def run_kept(
    problem: BlockProblem,
    weights: Mapping[str, mx.array],
    quantize: Quantize,
    rows: Rows[mx.array],
    outputs: dict[str, mx.array],
) -> dict[str, mx.array]:
    """Outputs of the block by stream, with layer `outputs` (by name) reused where present and added where not.

    MLX is lazy: computations that only lead to a reused output are not run.
    """
    inner = bind_block(problem, weights, quantize)

    def linear(name: str, x: mx.array) -> mx.array:
        if name not in outputs:
            outputs[name] = inner(name, x)
        return outputs[name]

    streams = run_block(linear, problem.block, rows.image, rows.text, rows.modulations)
    return {name: part for name, part in zip(STREAMS, streams, strict=True) if part is not None}
