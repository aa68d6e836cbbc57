"""What becomes of a block's outputs: the velocity that the blocks after it, in full precision, make of them.

The velocity is the guided one, by which the sampler goes (Ho & Salimans 2022, arXiv:2207.12598): guidance enlarges what
the prompt and the negative prompt are told apart by, and with it the error there, which is much of the text's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from workflow_scripts.mmdit.block_problem import BlockProblem, Rows, run_rows, take_rows
from workflow_scripts.mmdit.forward import advance_block, bind_linears, finish_velocity, list_blocks
from workflow_scripts.mmdit.sensitivity import BATCH, Change, Finish, leave, spread_rows, sum_squares
from workflow_scripts.numerics.schedule import guide

POINTS = 32  # the velocity is computed for, of two rows each

# (image (B, N, D), text (B, T, D) or None, what the adaLN linears read (B, D)) -> velocity (B, h, w, c)
Tail = Callable[[mx.array, mx.array | None, mx.array], mx.array]


def bind_tail(model: Any, index: int, shape: tuple[int, ...]) -> Tail:
    """What follows the block of `index`, for latents of `shape` (h, w, c)."""
    linear, blocks = bind_linears(model), list_blocks(model.config)[index + 1 :]

    def run(image: mx.array, text: mx.array | None, modulation: mx.array) -> mx.array:
        rows = mx.arange(len(image))
        for block in blocks:
            image, text = advance_block(linear, block, image, text, modulation, rows)
        return finish_velocity(model, linear, image, modulation, rows, (len(image), *shape))

    return run


def spread_pairs(sigmas: np.ndarray, points: np.ndarray, negative: np.ndarray, count: int) -> np.ndarray:
    """The rows of at most `count` points, evenly spread over the noise levels `sigmas` (R,), as indices.

    points (R,): what a row belongs to; negative (R,): 1 for a point's row of the negative prompt. The two rows of a
    point follow each other, the negative one last.
    """
    pairs = np.lexsort((negative, points)).reshape(-1, 2)  # (R,) -> (points, 2)
    return pairs[spread_rows(sigmas[pairs[:, 0]], count)].ravel()


def compare_velocities(tail: Tail, modulation: np.ndarray, cfg_scale: float) -> Finish:
    """The guided velocity (B / 2, h, w, c) that comes of the block's outputs on pairs of rows, B, the negative last.

    modulation (R, D) is what the adaLN linears of all rows read.
    """

    def finish(outputs: Mapping[str, mx.array], where: np.ndarray) -> dict[str, mx.array]:
        velocity = tail(outputs["image"], outputs.get("text"), mx.array(modulation[where]))
        return {"velocity": guide(mx.concatenate([velocity[::2], velocity[1::2]]), cfg_scale)}

    return finish


def measure_gains(problem: BlockProblem, where: np.ndarray, change: Change, finish: Finish) -> dict[str, float]:
    """By stream, the velocity's relative squared error over the stream's, where only that stream is led astray.

    `change` is what leads it astray, `finish` gives the velocity, on the rows at `where`; 0 for a stream that the
    change does not alter.
    """
    names = tuple(problem.powers)
    sums = {key: np.zeros(2) for key in (*names, *(f"{name}.velocity" for name in names))}  # error, power
    for start in range(0, len(where), BATCH):
        batch = where[start : start + BATCH]
        rows = take_rows(problem.rows, batch)
        exact, wrong = run_rows(problem, problem.weights, leave, rows), run_change(problem, change, rows, batch)
        velocity = finish(exact, batch)["velocity"]
        for name in names:
            astray = finish(exact | {name: wrong[name]}, batch)["velocity"]
            sums[name] += compare(wrong[name], exact[name])
            sums[f"{name}.velocity"] += compare(astray, velocity)
    return {name: divide_errors(sums[f"{name}.velocity"], sums[name]) for name in names}


def run_change(problem: BlockProblem, change: Change, rows: Rows, where: np.ndarray) -> dict[str, mx.array]:
    """The block's outputs on `rows`, those at `where`, under a change."""
    return run_rows(problem, *change(rows, where))


def compare(found: mx.array, exact: mx.array) -> np.ndarray:
    """The squared error and the square of `exact`, float64 (2,)."""
    parts = sum_squares(found - exact), sum_squares(exact)
    return np.array([np.array(part).sum(dtype=np.float64) for part in parts])


def divide_errors(effect: np.ndarray, cause: np.ndarray) -> float:
    """One relative error (error, power) over another; 0 without a cause."""
    return float(effect[0] / effect[1] / (cause[0] / cause[1])) if cause[0] else 0.0
