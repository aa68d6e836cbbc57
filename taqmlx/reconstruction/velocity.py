"""Propagation of block outputs through the full-precision remainder of the model to the velocity.

The velocity is the one used by the sampler. If the model uses guidance, it is the guided one (Ho & Salimans 2022,
arXiv:2207.12598): guidance amplifies the difference between the prompt and the negative prompt, and with it the error
of this difference, most of which comes from the text.
"""

from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import build_blocks
from taqmlx.mmdit.forward import advance_block, bind_linears, finish_velocity
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.schedule import guide
from taqmlx.reconstruction.block_problem import BlockProblem, Rows, run_rows, take_rows
from taqmlx.reconstruction.sensitivity import Change, Finish, identity, list_pairs, spread_rows, sum_squares

POINTS = 32  # calibration points per velocity evaluation (one row per condition)

# (image (B, N, D), text (B, T, D) or None, adaLN inputs (B, D)) -> velocity (B, h, w, c)
Tail = Callable[[mx.array, mx.array | None, mx.array], mx.array]


def bind_tail(model: Transformer, index: int, shape: tuple[int, ...]) -> Tail:
    """Remainder of the model after block `index`, for latents of `shape` (h, w, c)."""
    linear, blocks = bind_linears(model), build_blocks(model, shape)[index + 1 :]

    def run(image: mx.array, text: mx.array | None, modulation: mx.array) -> mx.array:
        rows = mx.arange(len(image))
        for block in blocks:
            image, text = advance_block(linear, block, image, text, modulation, rows)
        return finish_velocity(model, linear, image, modulation, rows, (len(image), *shape))

    return run


def spread_points(
    sigmas: np.ndarray, points: np.ndarray, negative: np.ndarray, conditions: int, count: int
) -> np.ndarray:
    """Row indices of at most `count` points, evenly spread over the noise levels `sigmas` (R,).

    points (R,): point of each row; negative (R,): 1 for a point's row of the negative prompt. The `conditions` rows of
    a point are consecutive, the negative one last.
    """
    grouped = np.lexsort((negative, points)).reshape(-1, conditions)  # (R,) -> (points, conditions)
    taken: np.ndarray = grouped[spread_rows(sigmas[grouped[:, 0]], count)]
    return taken.ravel()


def compare_velocities(tail: Tail, modulation: np.ndarray, conditions: int, cfg_scale: float) -> Finish:
    """Function from the block outputs on B rows to the guided velocity (B / conditions, h, w, c).

    modulation (R, D): adaLN inputs of all rows. The rows are ordered as by `spread_points`.
    """

    def finish(outputs: Mapping[str, mx.array], where: np.ndarray) -> dict[str, mx.array]:
        velocity = tail(outputs["image"], outputs.get("text"), mx.array(modulation[where]))
        return {"velocity": guide([velocity[place::conditions] for place in range(conditions)], cfg_scale)}

    return finish


def measure_gains(problem: BlockProblem, where: np.ndarray, change: Change, finish: Finish) -> dict[str, float]:
    """Ratio of the velocity's relative squared error to the stream's, by stream, when only that stream is perturbed.

    `change` is the perturbation and `finish` computes the velocity, on the rows at `where`. The ratio is 0 for a stream
    that the change does not affect.
    """
    names = tuple(problem.powers)
    sums = {key: np.zeros(2) for key in (*names, *(f"{name}.velocity" for name in names))}  # error, power
    for batch in list_pairs(problem, where):
        rows = take_rows(problem.rows, batch)
        exact, wrong = run_rows(problem, problem.weights, identity, rows), run_change(problem, change, rows, batch)
        velocity = finish(exact, batch)["velocity"]
        for name in names:
            perturbed = finish(exact | {name: wrong[name]}, batch)["velocity"]
            sums[name] += compare(wrong[name], exact[name])
            sums[f"{name}.velocity"] += compare(perturbed, velocity)
    return {name: divide_errors(sums[f"{name}.velocity"], sums[name]) for name in names}


def run_change(problem: BlockProblem, change: Change, rows: Rows[mx.array], where: np.ndarray) -> dict[str, mx.array]:
    """Outputs of the block on `rows`, those at `where`, under a change."""
    return run_rows(problem, *change(rows, where))


def compare(found: mx.array, exact: mx.array) -> np.ndarray:
    """Sums of the squared error and of the square of `exact`, float64 (2,)."""
    parts = sum_squares(found - exact), sum_squares(exact)
    return np.array([np.array(part).sum(dtype=np.float64) for part in parts])


def divide_errors(effect: np.ndarray, cause: np.ndarray) -> float:
    """Ratio of two relative errors (error, power); 0 if the error of `cause` is 0."""
    return float(effect[0] / effect[1] / (cause[0] / cause[1])) if cause[0] else 0.0
