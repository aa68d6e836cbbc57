"""Distillation: the whole quantized model learns the full-precision model's velocity at calibration points.

This stage follows block reconstruction. It learns scales, zero points, biases and step sizes, as mlx-lm's DWQ does for
language models, and also the codes. Every forward rounds all of them to their stored form, so that the stored model is
the one that was learned. The loss combines the guided velocity, used by the sampler, and those of the conditions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.optimizers import Adam
from mlx.utils import tree_flatten, tree_map

from taqmlx.mmdit.blocks import Block, Linear, Tokens, list_blocks
from taqmlx.mmdit.calibration_points import CalibrationPoints, guide_conditions, predict_conditions, split_runs
from taqmlx.mmdit.forward import advance_block, begin_blocks, bind_linears, finish_velocity
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.numerics.rounding import compute_rate
from taqmlx.reconstruction.block_assembly import list_own_linears
from taqmlx.reconstruction.student import Learned, Student, select_learned
from taqmlx.store.errors import UserError

BETAS = [0.9, 0.99]  # of Adam; 0.999 is too slow for a few hundred iterations
MEASURED = 256  # held-out points, at most
PARTS = 2  # of a batch, computed in parallel if there are cores; the same on every machine, for identical bytes
# Parameters learned by each kind of distillation.
KINDS = {"scales": ("scales", "zeros", "biases", "steps"), "codes": ("codes", "scales", "zeros", "biases", "steps")}


class Settings(NamedTuple):
    """Settings of distillation; see the configuration keys `distil_*`. guidance: the sampler's guidance weight."""

    kind: str
    iterations: int
    batch: int
    rate: float
    code_rate: float
    conditions: float
    sigma_power: float
    unroll: int
    checkpoint_every: int
    guidance: float
    seed: int

    @classmethod
    def read(cls, parameters: Mapping[str, Any], guidance: float) -> "Settings":
        """Settings from the parameters of the stage `distil`."""
        own = {name: parameters[f"distil_{name}"] for name in cls._fields if f"distil_{name}" in parameters}
        return cls(kind=parameters["distil"], guidance=guidance, seed=parameters["seed"], **own)

    def choose_rate(self, kind: str, iteration: int) -> float:
        """Learning rate of one kind of parameter."""
        return compute_rate(iteration, self.iterations, self.code_rate if kind == "codes" else self.rate)


@dataclass
class State:
    """State of learning: next iteration, learned parameters, Adam's states by kind, and the losses so far."""

    iteration: int
    learned: Learned
    adam: dict[str, Any]
    losses: list[float]


class Task(NamedTuple):
    """Models and points of a distillation.

    model: in full precision; student: the same model, quantized; levels: noise levels of the points (K,) in descending
    order, with a final 0; training and held_out: indices of points; conditions: number per point; recompute: True if
    blocks are recomputed for their gradients, to save memory.
    """

    model: Transformer
    student: Student
    points: CalibrationPoints
    levels: np.ndarray
    training: np.ndarray
    held_out: np.ndarray
    conditions: int
    recompute: bool


def learn(
    task: Task, settings: Settings, state: State, save: Callable[[State], None], report: Callable[[float], None]
) -> State:
    """Learn from `state` to the last iteration.

    `save` receives the state every `checkpoint_every` iterations, `report` each loss: squared error of the velocities
    over the square of the guided velocity. Raises UserError naming iteration and layer if a value is not finite.
    """
    iterate = bind_iteration(task, settings, state)
    for iteration in range(state.iteration, settings.iterations):
        before = dict(state.learned)  # after the update all values would be broken, not only the cause
        loss = iterate(iteration)
        refuse_broken(task, before, loss, iteration)
        state.iteration = iteration + 1
        state.losses.append(loss)
        report(loss)
        if state.iteration % settings.checkpoint_every == 0:
            save(state)
    return state


def bind_iteration(task: Task, settings: Settings, state: State) -> Callable[[int], float]:
    """`iterate(iteration)`: updates `state` by one iteration and returns its loss."""
    kinds = [kind for kind in KINDS[settings.kind] if state.learned[kind]]
    adams = restore_adams(state, kinds)
    exact = bind_linears(task.model)

    def measure(moving: Learned, indices: np.ndarray) -> mx.array:
        return compare(task, settings, state.learned | moving, exact, indices)

    differentiate = mx.value_and_grad(measure)
    streams = [mx.new_stream(mx.default_device()) for _ in range(PARTS)]

    def differentiate_parts(moving: Learned, indices: np.ndarray) -> tuple[mx.array, Learned]:
        parts = np.array_split(indices, min(PARTS, len(indices)))
        found = []
        for stream, part in zip(streams, parts, strict=False):
            with mx.stream(stream):
                found.append(differentiate(moving, part))
        shares = [len(part) / len(indices) for part in parts]
        joined: tuple[mx.array, Learned] = tree_map(
            lambda *values: sum(s * v for s, v in zip(shares, values, strict=True)), *found
        )
        mx.eval(joined)  # at once: MLX orders the operations from the outputs, and both streams are kept busy
        return joined

    def iterate(iteration: int) -> float:
        indices = draw_points(task.training, settings, iteration)
        moving = {kind: state.learned[kind] for kind in kinds}
        loss, gradients = differentiate_parts(moving, indices)
        for kind in kinds:
            adams[kind].learning_rate = settings.choose_rate(kind, iteration)
            state.learned[kind] = adams[kind].apply_gradients(gradients[kind], moving[kind])
        state.adam = {kind: adam.state for kind, adam in adams.items()}
        mx.eval(loss, state.learned, state.adam)
        return float(loss)

    return iterate


def draw_points(training: np.ndarray, settings: Settings, iteration: int) -> np.ndarray:
    """Indices of an iteration's points. They depend only on seed and iteration, so there is no state to restore."""
    rng = np.random.default_rng((settings.seed, iteration))
    return np.sort(rng.choice(training, min(settings.batch, len(training)), replace=False))


def compare(task: Task, settings: Settings, learned: Learned, exact: Linear, indices: np.ndarray) -> mx.array:
    """Loss at the points `indices`: mean over `unroll` Euler steps; each model continues from its own latents."""
    batch, levels = task.points.take(indices), task.points.sigmas[indices]
    weights = mx.array(weigh_levels(levels, settings.sigma_power))
    seen, wanted, losses = batch.latents, batch.latents, []
    for step in range(settings.unroll):
        told = mx.array(np.tile(levels, task.conditions) * np.float32(1000))
        found = predict_student(task, learned, batch._replace(latents=seen, timesteps=told))
        target = mx.stop_gradient(
            predict_conditions(task.model, exact, batch._replace(latents=wanted, timesteps=told), task.conditions)
        )
        losses.append(relate_velocities(found, target, weights, settings))
        if step + 1 == settings.unroll:
            break
        following = task.levels[np.minimum(np.searchsorted(-task.levels, -levels, "right"), len(task.levels) - 1)]
        move = mx.array(np.tile(following - levels, task.conditions))[:, None, None, None]
        guided = (guide_conditions(part, settings.guidance) for part in (found, target))
        seen, wanted = (
            latents + move * mx.concatenate([velocity] * task.conditions)
            for latents, velocity in zip((seen, wanted), guided, strict=True)
        )
        levels = following
    return sum(losses[1:], losses[0]) / len(losses)


def predict_student(task: Task, learned: Learned, batch: Batch) -> mx.array:
    """Velocities (C, b, h, w, c) of the student; blocks of large models are recomputed for their gradients.

    Gradient checkpoints: Chen et al. 2016, arXiv:1604.06174.
    """
    if not task.recompute:
        linear = task.student.bind(learned, batch.timesteps)
        return predict_conditions(task.model, linear, batch, task.conditions)
    outer = list_outer(task)
    linear = task.student.select(outer).bind(select_learned(learned, outer), batch.timesteps)
    text: mx.array | None
    image, text, modulation = begin_blocks(task.model, linear, *batch)
    for block in list_blocks(task.model, batch.latents.shape[1:]):
        image, text = advance_student(task, learned, block, batch, (image, text, modulation))
    velocity = finish_velocity(task.model, linear, image, modulation, batch.rows, batch.latents.shape)
    return velocity.reshape(task.conditions, -1, *velocity.shape[1:])


def list_outer(task: Task) -> set[str]:
    """Names of the layers outside blocks."""
    return {layer.name for layer in list_layers(task.model) if not layer.block}


def advance_student(
    task: Task,
    learned: Learned,
    block: Block,
    batch: Batch,
    states: tuple[mx.array, mx.array | None, mx.array],
) -> Tokens:
    """One block of the student, with nothing inside it kept for gradients. states: image, text and modulation."""
    names = {layer.name for layer in list_own_linears(task.model, block.name)}
    student = task.student.select(names)

    def run(own: Learned, image: mx.array, text: mx.array | None, modulation: mx.array) -> list[mx.array]:
        linear = student.bind(own, batch.timesteps)
        outputs = advance_block(linear, block, image, text, modulation, batch.rows)
        return [part for part in outputs if part is not None]

    image, *text = mx.checkpoint(run)(select_learned(learned, names), *states)
    return image, text[0] if text else None


def weigh_levels(levels: np.ndarray, power: float) -> np.ndarray:
    """Weight float32 (b,) of points at noise levels (b,): the level to the `power`, normalised to a mean of 1."""
    weights = np.maximum(levels, 1e-3).astype(np.float64) ** power
    relative: np.ndarray = weights / weights.mean()
    return relative.astype(np.float32)


def relate_velocities(found: mx.array, wanted: mx.array, weights: mx.array, settings: Settings) -> mx.array:
    """Error of velocities (C, b, h, w, c) over the mean square of the guided `wanted` ones; weights (b,)."""
    error = found - wanted
    guided = mx.square(guide_conditions(error, settings.guidance)).mean(axis=(1, 2, 3))  # (b,)
    single = mx.square(error).mean(axis=(0, 2, 3, 4))
    power = mx.square(guide_conditions(wanted, settings.guidance)).mean()
    return (weights * (guided + settings.conditions * single)).mean() / power


def measure_held_out(task: Task, settings: Settings, learned: Learned) -> float:
    """Squared error of the guided velocity over its square, at evenly spaced held-out points."""
    exact, sums = bind_linears(task.model), np.zeros(2)
    places = np.linspace(0, len(task.held_out) - 1, min(MEASURED, len(task.held_out))).round().astype(int)
    for indices in split_runs(task.held_out[places], settings.batch):
        batch = task.points.take(indices)
        pair = (predict_student(task, learned, batch), predict_conditions(task.model, exact, batch, task.conditions))
        found, wanted = (guide_conditions(part, settings.guidance) for part in pair)
        sums += [float(mx.square(found - wanted).sum()), float(mx.square(wanted).sum())]
    return float(sums[0] / sums[1])


def restore_adams(state: State, kinds: list[str]) -> dict[str, Adam]:
    """Adam for each kind of parameter, with the state in `state` if there is one, else initialised."""
    adams = {kind: Adam(0.0, betas=BETAS, bias_correction=True) for kind in kinds}
    for kind, adam in adams.items():
        if kind in state.adam:
            adam.state = state.adam[kind]
        else:
            adam.init(state.learned[kind])
    return adams


def refuse_broken(task: Task, learned: Learned, loss: float, iteration: int) -> None:
    """Raise UserError if `loss` is not finite, naming the iteration and the first value in `learned` that is not."""
    if np.isfinite(loss):
        return
    values = dict(tree_flatten(list_stored(task.student, learned)))
    broken = (name for name, value in values.items() if not mx.isfinite(value).all().item())
    first = next(broken, "the velocity")
    raise UserError(
        f"distillation: iteration {iteration} gives a value that is not finite, first in {first};"
        " lower distil_rate and distil_code_rate, or check the model's weights (the last checkpoint is kept)"
    )


def list_stored(student: Student, learned: Learned) -> Learned:
    """Stored form of `learned`, by kind and layer; a finite fp32 value may overflow fp16."""
    scales, zeros = student.restore_grids(learned)
    biases = {name: bias for name, bias in student.restore_biases(learned).items() if bias is not None}
    steps = student.restore_steps(learned)
    return {"codes": learned["codes"], "scales": scales, "zeros": zeros, "biases": biases, "steps": steps}
