"""Loss of distillation: the student's velocities against those of the full-precision teacher, along Euler steps.

The loss combines the guided velocity, used by the sampler, and those of the conditions. The teacher's part does not
depend on the student; it is computed first, so that both models are never in memory together.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Linear
from taqmlx.mmdit.calibration_points import CalibrationPoints, guide_conditions, predict_conditions
from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.low_precision import MULTIPLY, Multiply, multiply_single
from taqmlx.numerics.rounding import compute_rate
from taqmlx.planning.stage_groups import Distillation
from taqmlx.reconstruction.stages import LOSS, Activations, BindLearned, Run, Stage, Strategy, list_forward, run_stages
from taqmlx.reconstruction.student import Learned, Student


class Settings(NamedTuple):
    """Settings of distillation; see the configuration keys `distil_*` and `learning_dtype`.

    guidance: the sampler's guidance weight.
    """

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
    learning_dtype: str

    @classmethod
    def read(cls, parameters: Distillation, guidance: float) -> "Settings":
        """Settings from the parameters of the stage `distil`."""
        return cls(
            kind=parameters.distil,
            iterations=parameters.distil_iterations,
            batch=parameters.distil_batch,
            rate=parameters.distil_rate,
            code_rate=parameters.distil_code_rate,
            conditions=parameters.distil_conditions,
            sigma_power=parameters.distil_sigma_power,
            unroll=parameters.distil_unroll,
            checkpoint_every=parameters.distil_checkpoint_every,
            guidance=guidance,
            seed=parameters.seed,
            learning_dtype=parameters.learning_dtype,
        )

    def choose_rate(self, kind: str, iteration: int) -> float:
        """Learning rate of one kind of parameter."""
        return compute_rate(iteration, self.iterations, self.code_rate if kind == "codes" else self.rate)


class Task(NamedTuple):
    """Models and points of a distillation.

    load_teacher: loads the model in full precision; model: the same, whose linear layers are not read and, if it is
    lazy, not in memory; student: the same model, quantized; levels: noise levels of the points (K,) in descending
    order, with a final 0; training and held_out: indices of points; conditions: number per point; batch_size: held-out
    points per forward, at most; strategy: how gradients are computed.
    """

    load_teacher: Callable[[], Transformer]
    model: Transformer
    student: Student
    points: CalibrationPoints
    levels: np.ndarray
    training: np.ndarray
    held_out: np.ndarray
    conditions: int
    batch_size: int
    strategy: Strategy


class Step(NamedTuple):
    """One Euler step of the teacher from b points, B = C b rows.

    timesteps (B,); moves (B, 1, 1, 1): change of the noise level; velocities (C, b, h, w, c).
    """

    timesteps: mx.array
    moves: mx.array
    velocities: mx.array


class Lesson(NamedTuple):
    """What the teacher shows of some points: their indices (b,) and its steps from them."""

    indices: np.ndarray
    steps: list[Step]


class Teacher(NamedTuple):
    """The model in full precision, with its linear layers."""

    model: Transformer
    linear: Linear


def load_teacher(task: Task) -> Teacher:
    """Load the teacher; its memory is free again when the result is dropped."""
    model = task.load_teacher()
    return Teacher(model, bind_linears(model))


def teach(task: Task, settings: Settings, teacher: Teacher, indices: np.ndarray) -> Lesson:
    """The teacher's `unroll` Euler steps from the points `indices`, not evaluated."""
    batch, levels = task.points.take(indices), task.points.sigmas[indices]
    latents, steps = batch.latents, []
    for _ in range(settings.unroll):
        following = task.levels[np.minimum(np.searchsorted(-task.levels, -levels, "right"), len(task.levels) - 1)]
        timesteps = mx.array(np.tile(levels, task.conditions) * np.float32(1000))
        moves = mx.array(np.tile(following - levels, task.conditions))[:, None, None, None]
        rows = batch._replace(latents=latents, timesteps=timesteps)
        velocities = predict_conditions(teacher.model, teacher.linear, rows, task.conditions)
        steps.append(Step(timesteps, moves, velocities))
        latents, levels = move_latents(latents, velocities, moves, settings), following
    return Lesson(indices, steps)


def move_latents(latents: mx.array, velocities: mx.array, moves: mx.array, settings: Settings) -> mx.array:
    """Latents (B, h, w, c) after the Euler step by the guided velocity of `velocities` (C, b, h, w, c)."""
    guided = guide_conditions(velocities, settings.guidance)
    return latents + moves * mx.concatenate([guided] * len(velocities))


def list_stages(task: Task, settings: Settings, lesson: Lesson) -> tuple[list[Stage], Activations]:
    """Stages of the student from the points of a lesson to the `loss`, and the first activations.

    The loss is the mean over the steps; each model continues from its own latents.
    """
    batch = task.points.take(lesson.indices)
    weights = mx.array(weigh_levels(task.points.sigmas[lesson.indices], settings.sigma_power))
    stages: list[Stage] = []
    for place, step in enumerate(lesson.steps, 1):
        stages += list_student(task, batch._replace(timesteps=step.timesteps), MULTIPLY[settings.learning_dtype])
        stages.append(Stage(frozenset(), bind_loss(step, weights, settings, place == len(lesson.steps))))
    return stages, {"latents": batch.latents}


def list_student(task: Task, batch: Batch, multiply: Multiply = multiply_single) -> list[Stage]:
    """Stages of the student's forward on the rows of `batch`."""

    def bind(names: frozenset[str]) -> BindLearned:
        part = task.student.select(names)
        return lambda learned: part.bind(learned, batch.timesteps, multiply)

    return list(list_forward(task.model, bind, batch, task.conditions))


def bind_loss(step: Step, weights: mx.array, settings: Settings, is_last: bool) -> Run:
    """`run` of the loss of one step, added to that of earlier ones; weights (b,)."""

    def run(learned: Learned, before: Activations) -> Activations:
        loss = relate_velocities(before["velocity"], step.velocities, weights, settings)
        total = before[LOSS] + loss if LOSS in before else loss
        if is_last:
            return {LOSS: total / settings.unroll}
        return {LOSS: total, "latents": move_latents(before["latents"], before["velocity"], step.moves, settings)}

    return run


def compare(task: Task, settings: Settings, learned: Learned, lesson: Lesson) -> mx.array:
    """Loss of the student at the points of a lesson."""
    stages, first = list_stages(task, settings, lesson)
    return run_stages(task.strategy, stages, learned, first)[LOSS]


def differentiate(
    task: Task, settings: Settings, learned: Learned, fixed: Learned, lesson: Lesson
) -> tuple[mx.array, Learned]:
    """Loss as of `compare` and its gradients by `learned`; `fixed` has the other parameters."""
    stages, first = list_stages(task, settings, lesson)
    last, gradients = task.strategy.differentiate(stages, learned, fixed, first)
    return last[LOSS], gradients


def predict_student(task: Task, learned: Learned, indices: np.ndarray) -> mx.array:
    """Velocities (C, b, h, w, c) of the student at the points `indices`."""
    batch = task.points.take(indices)
    return run_stages(task.strategy, list_student(task, batch), learned, {"latents": batch.latents})["velocity"]


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
