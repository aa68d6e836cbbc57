"""Block reconstruction: learned rounding and activation step sizes from the block outputs.

AdaRound (Nagel et al. 2020, arXiv:2004.10568) with the block as the unit (BRECQ, Li et al. 2021, arXiv:2102.05426) and
learned step sizes (LSQ), jointly or sequentially (TaQ-DiT, Liu et al. 2024, arXiv:2411.14172). The gradient with
respect to the weights comes from the block; from there to alpha it is explicit, for all layers as one vector.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar, cast

import mlx.core as mx
import numpy as np

from taqmlx.numerics import rounding
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.low_precision import MULTIPLY, suggest_precision
from taqmlx.planning.stage_groups import AdaRound
from taqmlx.reconstruction.block_problem import (
    BlockProblem,
    Rows,
    compute_loss,
    find_nonfinite_layer,
    run_rows,
    take_rows,
)
from taqmlx.reconstruction.flat_weights import FlatWeights
from taqmlx.reconstruction.input_quantizers import bind_dropping, bind_rounding, bind_to_rows, leave_unrounded
from taqmlx.reconstruction.state import State, read_quantizers, restore_adams, update_alpha, update_step_sizes
from taqmlx.reconstruction.stopping import has_stopped, is_measured, measure_held_out
from taqmlx.store.errors import UserError

Function = TypeVar("Function", bound=Callable[..., object])


class Phase(NamedTuple):
    """Phase of learning: which parameters are learned, and whether activations are quantized."""

    name: str
    learns_rounding: bool
    learns_steps: bool
    rounds_activations: bool


PHASES = {
    "joint": (Phase("joint", True, True, True),),
    "separate": (Phase("rounding", True, False, False), Phase("steps", False, True, True)),
}


def learn(
    problem: BlockProblem,
    flat: FlatWeights,
    quantizers: Mapping[str, InputQuantizer],
    settings: AdaRound,
    state: State,
    save: Callable[[State], None],
    report: Callable[[float], None],
) -> State:
    """Learn from `state` to the last iteration, or until the held-out error stops falling (`adaround_patience`).

    `save` receives the state every `adaround_checkpoint_every` iterations, `report` the loss of each. Raises UserError
    naming iteration and layer if a value is not finite; the last saved state is finite.
    """
    phases = PHASES[settings.reconstruction]
    while state.phase < len(phases):
        phase = limit_phase(phases[state.phase], flat, state)
        iterate = bind_iteration(problem, flat, quantizers, settings, phase, state)
        iterations = settings.adaround_iterations if phase.learns_rounding or phase.learns_steps else 0
        for iteration in range(state.iteration, iterations):
            if has_stopped(state.errors, settings.adaround_patience):
                break
            loss = iterate(iteration)
            state.iteration = iteration + 1
            state.losses.append(loss)
            report(loss)
            if settings.adaround_patience and is_measured(state.iteration, iterations):
                weights = flat.split(flat.harden(state.alpha))
                state.errors.append(measure_held_out(problem, weights, read_quantizers(quantizers, state)))
            if state.iteration % settings.adaround_checkpoint_every == 0:
                reject_nonfinite_state(problem, flat, quantizers, settings, state)
                save(state)
        state.phase, state.iteration, state.adam, state.errors = state.phase + 1, 0, {}, []
    reject_nonfinite_state(problem, flat, quantizers, settings, state)
    return state


def limit_phase(phase: Phase, flat: FlatWeights, state: State) -> Phase:
    """`phase` without learning rounding or step sizes if the block has none."""
    return phase._replace(
        learns_rounding=phase.learns_rounding and bool(flat.shapes),
        learns_steps=phase.learns_steps and bool(state.log_steps),
    )


def draw_batch(problem: BlockProblem, settings: AdaRound, place: tuple[int, int]) -> tuple[Rows[mx.array], mx.array]:
    """Rows of an iteration and its random key. They depend only on seed and `place` (phase, iteration).

    With `adaround_drop`, that share of the values from quantized blocks is replaced by full-precision ones (QDrop).
    """
    rng = np.random.default_rng((settings.seed, *place))
    size = min(settings.adaround_batch, len(problem.training))
    indices = rng.choice(problem.training, size, replace=False)
    rows = take_rows(problem.rows, indices)
    if problem.clean is not None and settings.adaround_drop:
        image, text = [
            mx.where(mx.array(rng.random(part.shape) < settings.adaround_drop), mx.array(clean[indices]), part)
            for part, clean in zip((rows.image, rows.text), problem.clean, strict=True)
        ]
        rows = rows._replace(image=image, text=text)
    return rows, mx.random.key(int(rng.integers(2**31)))


def bind_iteration(
    problem: BlockProblem,
    flat: FlatWeights,
    quantizers: Mapping[str, InputQuantizer],
    settings: AdaRound,
    phase: Phase,
    state: State,
) -> Callable[[int], float]:
    """`iterate(iteration)`: updates `state` by one iteration of `phase` and returns the reconstruction loss."""
    adams = restore_adams(state)
    hard = flat.split(flat.harden(state.alpha)) if not phase.learns_rounding else {}
    measure = bind_measure(problem, quantizers, settings, phase, hard)
    differentiate = compile_on_gpu(mx.value_and_grad(measure))

    def iterate(iteration: int) -> float:
        before = replace(state)
        rows, key = draw_batch(problem, settings, (state.phase, iteration))
        h = rounding.compute_rounding(state.alpha)
        weights = flat.split(flat.soften(h)) if phase.learns_rounding else {}
        loss, gradients = differentiate({"weights": weights, "log_steps": state.log_steps}, rows, key)
        if phase.learns_rounding:
            slope = flat.differentiate(h, gradients["weights"], schedule_regularizer(settings, iteration))
            update_alpha(state, adams["rounding"], slope, settings.adaround_rate)
        if phase.learns_steps:
            rate = rounding.compute_rate(iteration, settings.adaround_iterations, settings.adaround_step_rate)
            update_step_sizes(state, adams["steps"], gradients["log_steps"], rate)
        state.adam = {name: adam.state for name, adam in adams.items()}
        mx.eval(loss, state.alpha, state.log_steps, state.adam)
        reject_nonfinite_loss(problem, weights or hard, quantizers, settings, before, rows, float(loss))
        return float(loss)

    return iterate


def bind_measure(
    problem: BlockProblem,
    quantizers: Mapping[str, InputQuantizer],
    settings: AdaRound,
    phase: Phase,
    hard: dict[str, mx.array],
) -> Callable[[dict[str, dict[str, mx.array]], Rows[mx.array], mx.array], mx.array]:
    """`measure(learned, rows, key)`: reconstruction loss with the learned `weights` and `log_steps`.

    hard: weights (out, in) that are quantized and not learned; key: random key that decides what is dropped.
    """
    multiply = MULTIPLY[settings.learning_dtype]

    def measure(learned: dict[str, dict[str, mx.array]], rows: Rows[mx.array], key: mx.array) -> mx.array:
        quantize = leave_unrounded(quantizers)
        if phase.rounds_activations:
            steps = {name: mx.exp(log_steps) for name, log_steps in learned["log_steps"].items()}
            quantize = bind_rounding(quantizers, steps, rows.sigma_index)
        if phase.rounds_activations and settings.adaround_drop:
            quantize = bind_dropping(quantizers, quantize, settings.adaround_drop, key)
        weights = problem.weights | hard | learned["weights"]
        return compute_loss(problem, run_rows(problem, weights, quantize, rows, multiply), rows)

    return measure


def compile_on_gpu(function: Function) -> Function:
    """`function` of trees of arrays, compiled on a GPU; compiled element-wise operations are slower on a CPU."""
    return cast(Function, mx.compile(function)) if mx.default_device().type == mx.gpu else function


def schedule_regularizer(settings: AdaRound, iteration: int) -> tuple[float, float] | None:
    """Weight and beta of the regularizer, or None during the warm-up."""
    beta = rounding.compute_beta(
        iteration, settings.adaround_iterations, settings.adaround_warm_up, settings.adaround_beta
    )
    return None if beta is None else (settings.adaround_weight, beta)


def reject_nonfinite_loss(
    problem: BlockProblem,
    weights: Mapping[str, mx.array],
    quantizers: Mapping[str, InputQuantizer],
    settings: AdaRound,
    before: State,
    rows: Rows[mx.array],
    loss: float,
) -> None:
    """Raise UserError, naming the iteration from `before` and the first layer that is not finite, if `loss` is not."""
    if np.isfinite(loss):
        return
    quantize = bind_to_rows(read_quantizers(quantizers, before))(rows)
    multiply = MULTIPLY[settings.learning_dtype]
    layer = find_nonfinite_layer(problem, problem.weights | dict(weights), quantize, rows, multiply)
    raise UserError(describe_break(problem, settings, before.iteration, layer or "the targets"))


def reject_nonfinite_state(
    problem: BlockProblem,
    flat: FlatWeights,
    quantizers: Mapping[str, InputQuantizer],
    settings: AdaRound,
    state: State,
) -> None:
    """Raise UserError unless alpha, the step sizes and their reciprocals are finite."""
    values = flat.split(state.alpha) | {key: mx.exp(mx.abs(steps)) for key, steps in state.log_steps.items()}
    for name, value in values.items():
        if not mx.isfinite(value).all().item():
            raise UserError(describe_break(problem, settings, state.iteration, name))


def describe_break(problem: BlockProblem, settings: AdaRound, iteration: int, layer: str) -> str:
    """Error message for a value that is not finite."""
    return (
        f"{problem.block.name}: iteration {iteration} gives a value that is not finite, first in {layer};"
        f" lower adaround_rate{suggest_precision(settings.learning_dtype)}, or check the model's weights"
        " (the last checkpoint is kept)"
    )
