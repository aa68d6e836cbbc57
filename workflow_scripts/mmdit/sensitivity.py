"""How far a block's outputs go astray when one thing in it is rounded: one layer's weight, or what layers read.

All else is in full precision, and the outputs are compared with those of full precision on the same rows. What a
change does not reach is computed once and shared by all that is tried of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from workflow_scripts.mmdit.block_problem import STREAMS, BlockProblem, Quantize, Rows, bind_block, take_rows
from workflow_scripts.mmdit.forward import run_block
from workflow_scripts.mmdit.layers import Layer

BATCH = 32  # rows at a time, an even number as some go in pairs; what changes share is kept for as many

# The stages of a block's forward; the attention, between q, k, v and o, mixes the streams.
_STAGES = {"adaLN": 0, "qkv": 1, "o": 2, "fc1": 3, "fc2": 4}
_BEFORE_ATTENTION = ("adaLN", "qkv")

# What a change makes of a batch: (rows, their indices) -> weights by layer, what products see of inputs, rows
Change = Callable[[Rows, np.ndarray], tuple[Mapping[str, mx.array], Quantize, Rows]]
# The block's outputs on the rows at some indices -> what is compared, by name
Finish = Callable[[dict[str, mx.array], np.ndarray], dict[str, mx.array]]


class RowErrors(NamedTuple):
    """By what is compared: squared errors float64 (changes, R) and the squares of full precision (R,), by row."""

    errors: dict[str, np.ndarray]
    powers: dict[str, np.ndarray]

    def relate(self, where: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """The relative squared error of each change over the rows at `where`, float64 (changes,), by name."""
        return {name: self.errors[name][:, where].sum(axis=1) / self.powers[name][where].sum() for name in self.errors}


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
    """The names of those of a block's `layers` whose outputs stay when the layers `changed` (alike in role) change."""
    first = changed[0]
    stage, mixes = _STAGES[first.role], first.role in _BEFORE_ATTENTION

    def is_reached(layer: Layer) -> bool:
        return _STAGES[layer.role] > stage and (layer.stream == first.stream or (mixes and layer.role != "qkv"))

    return {layer.name for layer in layers if layer not in changed and not is_reached(layer)}


def measure_changes(
    problem: BlockProblem, where: np.ndarray, kept: set[str], changes: Sequence[Change], finish: Finish
) -> RowErrors:
    """The errors of `changes`, none of which reaches the layers `kept`, on the rows at `where` (R,)."""
    errors: dict[str, list[np.ndarray]] = {}
    powers: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(where), BATCH):
        batch = where[start : start + BATCH]
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
    rows: Rows,
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

    streams = run_block(linear, problem.block, *rows[:4])
    return {name: part for name, part in zip(STREAMS, streams, strict=True) if part is not None}
