"""Distillation: the whole quantized model learns the full-precision model's velocity at calibration points.

This stage follows block reconstruction. It learns scales, zero points, biases and step sizes, as mlx-lm's DWQ does for
language models, and also the codes. Every forward rounds all of them to their stored form, so that the stored model is
the one that was learned.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.optimizers import Adam
from mlx.utils import tree_flatten, tree_map

from taqmlx.mmdit.calibration_points import guide_conditions, predict_conditions, split_runs
from taqmlx.numerics.footprint import PARTS
from taqmlx.numerics.low_precision import suggest_precision
from taqmlx.planning.stage_groups import MEASURED_POINTS
from taqmlx.reconstruction.student import Learned, Student
from taqmlx.reconstruction.velocity_loss import (
    Lesson,
    Settings,
    Task,
    differentiate,
    load_teacher,
    predict_student,
    teach,
)
from taqmlx.store.errors import UserError

BETAS = [0.9, 0.99]  # of Adam; 0.999 is too slow for a few hundred iterations
TAUGHT = 10  # iterations that the teacher is loaded for
# Parameters learned by each kind of distillation.
KINDS = {"scales": ("scales", "zeros", "biases", "steps"), "codes": ("codes", "scales", "zeros", "biases", "steps")}


@dataclass
class State:
    """State of learning: next iteration, learned parameters, Adam's states by kind, and the losses so far."""

    iteration: int
    learned: Learned
    adam: dict[str, Any]
    losses: list[float]


def learn(
    task: Task, settings: Settings, state: State, save: Callable[[State], None], report: Callable[[float], None]
) -> State:
    """Learn from `state` to the last iteration.

    `save` receives the state every `checkpoint_every` iterations, `report` each loss: squared error of the velocities
    over the square of the guided velocity. Raises UserError naming iteration and layer if a value is not finite.
    """
    streams = open_streams()
    iterate = bind_iteration(task, settings, state, streams)
    for start in range(state.iteration, settings.iterations, TAUGHT):
        prepared = prepare_lessons(task, settings, streams, range(start, min(start + TAUGHT, settings.iterations)))
        mx.clear_cache()  # of the teacher's weights
        for iteration, lessons in enumerate(prepared, start):
            before = dict(state.learned)  # after the update all values would be broken, not only the cause
            loss = iterate(iteration, lessons)
            reject_nonfinite(task, settings, before, loss, iteration)
            state.iteration = iteration + 1
            state.losses.append(loss)
            report(loss)
            if state.iteration % settings.checkpoint_every == 0:
                save(state)
    return state


def open_streams() -> list[mx.Stream]:
    """Streams for the parts of a batch."""
    return [mx.new_stream(mx.default_device()) for _ in range(PARTS)]


def prepare_lessons(
    task: Task, settings: Settings, streams: list[mx.Stream], iterations: Iterable[int]
) -> list[list[Lesson]]:
    """Lessons of each iteration, one for each part of its batch. The teacher is in memory only meanwhile."""
    compute, lessons = partial(teach, task, settings, load_teacher(task)), []
    for iteration in iterations:
        indices = draw_points(task.training, settings, iteration)
        parts = np.array_split(indices, min(PARTS, len(indices)))
        lessons.append(compute_shares(task, streams, compute, parts))
        mx.eval(lessons[-1])
    return lessons


def compute_shares(task: Task, streams: list[mx.Stream], compute: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    """Results of `compute` on each part of a batch, each on a stream of its own."""
    found = []
    for stream, part in zip(streams, parts, strict=False):
        with mx.stream(stream):
            found.append(compute(part))
            task.strategy.settle(found[-1])
    return found


def bind_iteration(
    task: Task, settings: Settings, state: State, streams: list[mx.Stream]
) -> Callable[[int, list[Lesson]], float]:
    """`iterate(iteration, lessons)`: updates `state` by one iteration and returns its loss."""
    kinds = [kind for kind in KINDS[settings.kind] if state.learned[kind]]
    adams = restore_adams(state, kinds)

    def iterate(iteration: int, lessons: list[Lesson]) -> float:
        moving = {kind: state.learned[kind] for kind in kinds}
        fixed = {kind: parts for kind, parts in state.learned.items() if kind not in kinds}
        found = compute_shares(task, streams, partial(differentiate, task, settings, moving, fixed), lessons)
        loss, gradients = average(found, [len(lesson.indices) for lesson in lessons])
        mx.eval(loss, gradients)  # at once: MLX orders the operations from the outputs, and both streams are kept busy
        for kind in kinds:
            adams[kind].learning_rate = settings.choose_rate(kind, iteration)
            state.learned[kind] = adams[kind].apply_gradients(gradients[kind], moving[kind])
        state.adam = {kind: adam.state for kind, adam in adams.items()}
        mx.eval(loss, state.learned, state.adam)
        return float(loss)

    return iterate


def average(found: list[tuple[mx.array, Learned]], counts: list[int]) -> tuple[mx.array, Learned]:
    """Losses and gradients averaged over parts of `counts` points."""
    shares = [count / sum(counts) for count in counts]
    joined: tuple[mx.array, Learned] = tree_map(
        lambda *values: sum(share * value for share, value in zip(shares, values, strict=True)), *found
    )
    return joined


def draw_points(training: np.ndarray, settings: Settings, iteration: int) -> np.ndarray:
    """Indices of an iteration's points. They depend only on seed and iteration, so there is no state to restore."""
    rng = np.random.default_rng((settings.seed, iteration))
    return np.sort(rng.choice(training, min(settings.batch, len(training)), replace=False))


def measure_held_out(task: Task, settings: Settings, candidates: Mapping[str, Learned]) -> dict[str, float]:
    """Squared error of the guided velocity over its square at evenly spaced held-out points, by candidate."""
    places = np.linspace(0, len(task.held_out) - 1, min(MEASURED_POINTS, len(task.held_out))).round().astype(int)
    runs = list(split_runs(task.held_out[places], task.batch_size))
    wanted = predict_teacher(task, settings, runs)
    mx.clear_cache()  # of the teacher's weights
    return {name: sum_errors(task, settings, learned, runs, wanted) for name, learned in candidates.items()}


def predict_teacher(task: Task, settings: Settings, runs: list[np.ndarray]) -> list[mx.array]:
    """The teacher's guided velocities (b, h, w, c) at each of `runs` of points (b,), evaluated."""
    teacher, found = load_teacher(task), []
    for indices in runs:
        velocities = predict_conditions(teacher.model, teacher.linear, task.points.take(indices), task.conditions)
        found.append(guide_conditions(velocities, settings.guidance))
        mx.eval(found[-1])
    return found


def sum_errors(
    task: Task, settings: Settings, learned: Learned, runs: list[np.ndarray], wanted: list[mx.array]
) -> float:
    """Squared error of the student's guided velocity over the square of the `wanted` one, on all `runs` of points."""
    sums = np.zeros(2)
    for indices, target in zip(runs, wanted, strict=True):
        found = guide_conditions(predict_student(task, learned, indices), settings.guidance)
        sums += [float(mx.square(found - target).sum()), float(mx.square(target).sum())]
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


def reject_nonfinite(task: Task, settings: Settings, learned: Learned, loss: float, iteration: int) -> None:
    """Raise UserError if `loss` is not finite, naming the iteration and the first value in `learned` that is not."""
    if np.isfinite(loss):
        return
    values = dict(tree_flatten(list_stored(task.student, learned)))
    broken = (name for name, value in values.items() if not mx.isfinite(value).all().item())
    first = next(broken, "the velocity")
    raise UserError(
        f"distillation: iteration {iteration} gives a value that is not finite, first in {first};"
        f" lower distil_rate and distil_code_rate{suggest_precision(settings.learning_dtype)},"
        " or check the model's weights (the last checkpoint is kept)"
    )


def list_stored(student: Student, learned: Learned) -> Learned:
    """Stored form of `learned`, by kind and layer; a finite fp32 value may overflow fp16."""
    scales, zeros = student.restore_grids(learned)
    biases = {name: bias for name, bias in student.restore_biases(learned).items() if bias is not None}
    steps = student.restore_steps(learned)
    return {"codes": learned["codes"], "scales": scales, "zeros": zeros, "biases": biases, "steps": steps}
