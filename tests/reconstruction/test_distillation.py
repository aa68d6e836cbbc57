"""Distillation: the loss agrees with slow versions, its gradients with finite differences, and learning lowers it."""

import weakref

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from taqmlx.mmdit.forward import bind_linears, bind_weights, predict_velocity
from taqmlx.numerics.activation import find_largest_code
from taqmlx.numerics.weight_grid import expand_groups
from taqmlx.planning.stage_groups import Distillation
from taqmlx.reconstruction import distillation, velocity_loss
from taqmlx.reconstruction.distillation import KINDS, PARTS, State, draw_points, learn, measure_held_out
from taqmlx.reconstruction.stages import BY_STAGE, WHOLE
from taqmlx.reconstruction.student import assemble_student
from taqmlx.reconstruction.velocity_loss import Settings, Task, compare, load_teacher, teach
from taqmlx.store.errors import UserError
from tests.mmdit.test_calibration_points import SIGMAS, make_points
from tests.reconstruction.test_student import create_model, make_files, move
from tools.reference import FLUX

EXACT_INPUTS, COARSE_INPUTS = {"bits": 16}, {"bits": 4, "policy": "lut"}
GROUPED_INPUTS = {"bits": 8, "policy": "dynamic", "group_size": 32}
SMALL = {"hidden_size_override": 64, "num_heads": 1, "token_level_text_embed_dim": 64, "pooled_text_embed_dim": 64}
SINGLE = {"dtype": mx.float32, "float16_dtype": mx.float32}  # sums in bfloat16 depend on their order
SETTINGS = Settings(
    kind="codes",
    iterations=6,
    batch=6,
    rate=5e-4,
    code_rate=3e-3,
    conditions=0.5,
    sigma_power=0.0,
    unroll=1,
    checkpoint_every=2,
    guidance=3.0,
    seed=0,
)
LEVELS = np.append(SIGMAS, np.float32(0))
POINTS = np.array([0, 5, 2, 11])  # at every noise level


def make_task(folder, activation=EXACT_INPUTS, conditions=2, **changes):
    """A task on a small model rounded to 3 bits, nearest, and where it starts by kind."""
    model = create_model(**SMALL | changes)
    points = make_points(model, conditions=conditions)
    student, codes = assemble_student(model, make_files(folder, model, points, activation, bits=3, sizes=(32, 64)))
    sets = points, LEVELS, np.arange(8), np.arange(8, 12)
    task = Task(lambda: model, model, student, *sets, conditions, SETTINGS.batch, WHOLE)
    return task, {kind: student.start(model, codes, "codes" in KINDS[kind]) for kind in KINDS}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """3-bit weights, exact inputs."""
    return make_task(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """3-bit weights, inputs of 4 bits with a step size for each noise level; after a GELU shifted and migrated."""
    return make_task(tmp_path_factory.mktemp("coarse"), COARSE_INPUTS)


@pytest.fixture(scope="module")
def unguided(tmp_path_factory):
    """FLUX: one condition, unified blocks."""
    return make_task(tmp_path_factory.mktemp("unguided"), GROUPED_INPUTS, 1, **FLUX | SINGLE)


@pytest.fixture(params=["plain", "coarse", "unguided"])
def study(request):
    return request.getfixturevalue(request.param)


def guide_slowly(velocities, guidance=3.0):
    """The guided velocity of (C, ...)."""
    positive, *negative = velocities
    return negative[0] + guidance * (positive - negative[0]) if negative else positive


def predict_at(task, bind, latents, sigma, point) -> np.ndarray:
    """The velocities (C, h, w, c) at one state (C, h, w, c) of a point; `bind(timesteps)` gives the linears."""
    cs, pooled = task.points.read_conditions(task.points.prompts[[point]])
    timesteps, count = mx.full(task.conditions, float(sigma) * 1000), task.conditions
    arrays = (mx.array(part.astype(np.float32)) for part in (latents, cs[0], pooled[0]))
    return np.array(predict_velocity(task.model, bind(timesteps), *arrays, timesteps, mx.arange(count)), np.float64)


def compare_slowly(task, settings, bind, indices) -> float:
    """The loss in float64, point by point and step by step; `bind` as of `predict_at`."""
    exact, losses = bind_linears(task.model), []
    seen = {point: [np.stack([task.points.xs[point].astype(np.float64)] * task.conditions)] * 2 for point in indices}
    levels = {point: task.points.sigmas[point] for point in indices}
    for _ in range(settings.unroll):
        power, errors = [], []
        weights = np.array([float(task.points.sigmas[point]) ** settings.sigma_power for point in indices])
        for point in indices:
            found = predict_at(task, bind, seen[point][0], levels[point], point)
            wanted = predict_at(task, lambda timesteps: exact, seen[point][1], levels[point], point)
            guided = guide_slowly(found, settings.guidance), guide_slowly(wanted, settings.guidance)
            power.append(np.square(guided[1]).mean())
            single = np.square(found - wanted).mean()
            errors.append(np.square(guided[0] - guided[1]).mean() + settings.conditions * single)
            following = max((level for level in task.levels if level < levels[point]), default=task.levels[-1])
            move = float(following) - float(levels[point])
            seen[point] = [state + move * velocity for state, velocity in zip(seen[point], guided, strict=True)]
            levels[point] = following
        losses.append((weights / weights.mean() * errors).mean() / np.mean(power))
    return float(np.mean(losses))


def compare_fast(task, settings, learned, indices=POINTS):
    return compare(task, settings, learned, teach(task, settings, load_teacher(task), indices))


def differentiate(task, settings, learned, kinds=KINDS["codes"], indices=POINTS):
    """The loss and its gradients by kind."""
    moving, fixed = ({kind: parts for kind, parts in learned.items() if (kind in kinds) == moves} for moves in (1, 0))
    lesson = teach(task, settings, load_teacher(task), indices)
    loss, gradients = velocity_loss.differentiate(task, settings, moving, fixed, lesson)
    mx.eval(loss, gradients)
    return loss.item(), gradients


def measure(task, learned) -> float:
    """The error on held-out points."""
    return measure_held_out(task, SETTINGS, {"it": learned})["it"]


class TestLoss:
    @pytest.mark.parametrize(
        "changes",
        [
            {"conditions": 0.0},
            {"sigma_power": 1.0},
            {"sigma_power": -0.5, "guidance": 1.5},
            {"unroll": 3},
        ],
        ids=str,
    )
    def test_the_loss_equals_that_of_the_slow_version(self, study, changes):
        task, starts = study
        settings = SETTINGS._replace(**changes)
        slow = compare_slowly(task, settings, lambda timesteps: task.student.bind(starts["codes"], timesteps), POINTS)
        # later steps start from states that differ by fp32's rounding, which moves a few codes of inputs
        assert compare_fast(task, settings, starts["codes"]).item() == pytest.approx(slow, rel=1e-2)
        if not task.student.quantizers[next(iter(task.student.quantizers))].bits < 16:
            assert compare_fast(task, settings, starts["codes"]).item() == pytest.approx(slow, rel=1e-4)

    def test_full_precision_has_no_loss(self, plain):
        task, _ = plain
        slow = compare_slowly(task, SETTINGS, lambda timesteps: bind_linears(task.model), POINTS)
        assert slow == 0

    def test_points_are_weighted_by_a_power_of_sigma(self):
        found = velocity_loss.weigh_levels(np.array([1.0, 0.5, 0.25]), 2.0)
        np.testing.assert_allclose(found, np.array([16, 4, 1]) / 7, rtol=1e-6)
        np.testing.assert_array_equal(velocity_loss.weigh_levels(SIGMAS, 0.0), np.ones(4))
        assert np.isfinite(velocity_loss.weigh_levels(np.zeros(2), -1.0)).all()

    def test_held_out_points_have_the_error_of_the_guided_velocity(self, study):
        task, starts = study
        exact, sums = bind_linears(task.model), np.zeros(2)
        for point in task.held_out:
            latents = np.stack([task.points.xs[point]] * task.conditions)
            binders = (lambda timesteps: task.student.bind(starts["codes"], timesteps), lambda timesteps: exact)
            found, wanted = (
                guide_slowly(predict_at(task, bind, latents, task.points.sigmas[point], point)) for bind in binders
            )
            sums += [np.square(found - wanted).sum(), np.square(wanted).sum()]
        assert measure(task, starts["codes"]) == pytest.approx(sums[0] / sums[1], rel=1e-2)

    def test_a_subset_of_many_held_out_points_is_spread_evenly(self, plain, monkeypatch):
        task, starts = plain
        monkeypatch.setattr(distillation, "MEASURED", 2)
        ends = measure(task._replace(held_out=task.held_out[[0, -1]]), starts["codes"])
        assert measure(task, starts["codes"]) == pytest.approx(ends, rel=1e-6)

    def test_held_out_errors_do_not_depend_on_the_strategy_nor_on_how_many_points_go_together(self, study):
        task, starts = study
        apart = task._replace(strategy=BY_STAGE, batch_size=1)
        assert measure(apart, starts["codes"]) == pytest.approx(measure(task, starts["codes"]), rel=1e-2)


class TestGradients:
    """Straight-through: those of the loss at the values stored, as if nothing were rounded."""

    @pytest.mark.parametrize("kind", ["scales", "zeros", "biases"])
    def test_the_gradients_of_weights_agree_with_finite_differences(self, plain, kind):
        """Along a random direction, from the values stored, in units of the displacements."""
        task, starts = plain
        student, learned = task.student, move(starts["codes"], size=0.02)
        rng = np.random.default_rng(1)
        direction = {name: rng.standard_normal(part.shape).astype(np.float32) for name, part in learned[kind].items()}
        scales, zeros = student.restore_grids(learned)
        whole = {name: np.clip(np.rint(np.array(codes)), 0, 7) for name, codes in learned["codes"].items()}

        def evaluate(size):
            weights, biases = dict(student.exact), student.restore_biases(learned)
            for name, grid in student.grids.items():
                scale, zero = np.array(scales[name], np.float64), np.array(zeros[name], np.float64)
                if kind == "scales":
                    scale = scale * np.exp(size * direction[name])
                if kind == "zeros":
                    zero = zero + size * direction[name] * grid.scales.astype(np.float64) * (2**grid.bits - 1)
                weights[name] = mx.array(
                    whole[name] * expand_groups(scale, grid.group_size) + expand_groups(zero, grid.group_size)
                )
            if kind == "biases":
                biases |= {name: biases[name] + size * student.bias_scale[name] * direction[name] for name in direction}
            linear = bind_weights({name: weight.astype(mx.float32) for name, weight in weights.items()}, biases)
            return compare_slowly(task, SETTINGS, lambda timesteps: linear, POINTS)

        _, gradients = differentiate(task, SETTINGS, learned, (kind,))
        slope = sum((np.array(gradients[kind][name]) * part).sum() for name, part in direction.items())
        size = 1e-3
        assert slope == pytest.approx((evaluate(size) - evaluate(-size)) / (2 * size), rel=0.03)

    def test_codes_have_the_gradient_of_their_weight_times_the_scale(self, plain):
        task, starts = plain
        student, learned = task.student, starts["codes"]
        weights, biases = student.restore_weights(learned), student.restore_biases(learned)

        def measure(weights):
            linear = bind_weights(weights, biases)
            batch = task.points.take(POINTS)
            found, wanted = (
                velocity_loss.predict_conditions(task.model, own, batch, 2)
                for own in (linear, bind_linears(task.model))
            )
            return velocity_loss.relate_velocities(found, wanted, mx.ones(len(POINTS)), SETTINGS)

        by_weight = mx.grad(measure)({name: weights[name] for name in student.grids})
        _, gradients = differentiate(task, SETTINGS, learned, ("codes",))
        for name, grid in student.grids.items():
            expected = np.array(by_weight[name]) * expand_groups(grid.scales, grid.group_size)
            found = np.array(gradients["codes"][name])
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)

    @pytest.mark.parametrize(
        "reader", ["mm_00.image.attn.q_proj", "mm_00.text.mlp.fc2", "mm_01.image.mlp.fc1", "mm_01.image.mlp.fc2"]
    )
    def test_the_gradients_of_step_sizes_agree_with_finite_differences(self, coarse, reader):
        """Rounding adds a constant and clipping stays where it is: then the loss is smooth in a step size. LSQ divides
        by sqrt(N q), N the values of a row that share it."""
        task, starts = coarse
        student, learned = task.student, starts["codes"]
        weights, biases = student.restore_weights(learned), student.restore_biases(learned)
        largest, frozen, sizes = find_largest_code(4), {}, {}

        def evaluate(factor):
            calls = [0]

            def bind(timesteps):
                calls[0] += 1
                return lambda name, x: compute(name, x, calls[0], timesteps)

            def compute(name, x, call, timesteps):
                key = student.readers.get(name)
                if key is not None:
                    quantizer = student.quantizers[key]
                    x, shift = (x, 0.0) if quantizer.migration is None else divide(x, quantizer)
                    index = int(np.abs(student.sigmas * 1000 - timesteps[0].item()).argmin())
                    step = quantizer.steps[index] * (factor if key == reader else 1.0)
                    v = (x - shift) / step
                    inside, added, end = frozen.setdefault(
                        (call, key), (mx.abs(v) <= largest, mx.round(v) - v, mx.sign(v) * largest)
                    )
                    sizes[key] = x[0].size
                    x = mx.where(inside, x - shift + added * step, end * step) + shift
                y, bias = x @ weights[name].T, biases[name]
                return y if bias is None else y + bias

            return compare_slowly(task, SETTINGS, bind, POINTS)

        base, size = evaluate(1.0), 0.02
        assert compare_fast(task, SETTINGS, learned).item() == pytest.approx(base, rel=1e-2)
        slope = (evaluate(1 + size) - evaluate(1 - size)) / (2 * size) / np.sqrt(sizes[reader] * largest)
        _, gradients = differentiate(task, SETTINGS, learned, ("steps",))
        assert gradients["steps"][reader].sum().item() == pytest.approx(slope, rel=0.05, abs=1e-6)

    @pytest.mark.parametrize("kind", list(KINDS))
    @pytest.mark.parametrize("unroll", [1, 2])
    def test_recomputed_blocks_have_equal_gradients(self, study, kind, unroll):
        """Gradient checkpoints save memory and change nothing else."""
        task, starts = study
        settings = SETTINGS._replace(unroll=unroll, kind=kind)
        kinds = [own for own in KINDS[kind] if starts[kind][own]]
        (loss, whole), (again, parts) = (
            differentiate(task._replace(strategy=strategy), settings, starts[kind], kinds)
            for strategy in (WHOLE, BY_STAGE)
        )
        assert again == pytest.approx(loss, rel=1e-5)
        for own in kinds:
            largest = max(np.abs(np.array(part)).max() for part in whole[own].values())
            assert largest > 0
            for name, gradient in whole[own].items():
                np.testing.assert_allclose(
                    np.array(parts[own][name]), np.array(gradient), rtol=1e-3, atol=1e-5 * largest, err_msg=name
                )


def divide(x, quantizer):
    """x and shift by the migration."""
    return x / quantizer.migration, quantizer.shift / quantizer.migration


class TestPoints:
    """Seed and iteration decide, and nothing else."""

    TRAINING = np.arange(100, 200)

    def test_the_points_of_an_iteration_are_distinct_training_points(self):
        for iteration in range(5):
            points = draw_points(self.TRAINING, SETTINGS, iteration)
            assert len(set(points)) == SETTINGS.batch
            assert set(points) <= set(self.TRAINING)

    def test_the_points_of_an_iteration_do_not_depend_on_earlier_draws(self):
        forward = [draw_points(self.TRAINING, SETTINGS, iteration).tolist() for iteration in range(4)]
        backward = [draw_points(self.TRAINING, SETTINGS, iteration).tolist() for iteration in (3, 2, 1, 0)]
        assert forward == backward[::-1]
        assert len(set(map(tuple, forward))) == 4
        assert draw_points(self.TRAINING, SETTINGS._replace(seed=1), 0).tolist() not in forward

    def test_a_batch_larger_than_the_points_has_all_points(self):
        assert draw_points(self.TRAINING, SETTINGS._replace(batch=1000), 0).tolist() == self.TRAINING.tolist()


def start_state(learned) -> State:
    return State(0, dict(learned), {}, [])


def learn_quietly(task, settings, state, save=lambda state: None) -> State:
    return learn(task, settings, state, save, lambda loss: None)


def copy_state(state) -> State:
    """As it is now: learning changes a state in place."""
    return State(state.iteration, dict(state.learned), tree_map(lambda value: value, state.adam), list(state.losses))


def assert_equal(first, second):
    """To the bit."""
    pairs = zip(tree_flatten(first), tree_flatten(second), strict=True)
    for (name, value), (other_name, other) in pairs:
        assert name == other_name
        np.testing.assert_array_equal(np.array(value), np.array(other), err_msg=name)


@pytest.mark.slow
class TestLearning:
    @pytest.mark.parametrize(("name", "kind"), [("plain", "scales"), ("coarse", "codes"), ("unguided", "codes")])
    def test_the_loss_falls(self, name, kind, request):
        task, starts = request.getfixturevalue(name)
        settings = SETTINGS._replace(kind=kind, iterations=6, batch=8, rate=5e-3, code_rate=0.03)
        state = learn_quietly(task, settings, start_state(starts[kind]))
        assert len(state.losses) == state.iteration == 6
        assert state.losses[-1] < 0.9 * state.losses[0]

    def test_only_the_configured_kinds_of_parameters_move(self, coarse):
        task, starts = coarse
        for kind in KINDS:
            settings = SETTINGS._replace(kind=kind, iterations=2)
            learned = learn_quietly(task, settings, start_state(starts[kind])).learned
            moved = {
                own
                for own, parts in learned.items()
                if any((part != starts[kind][own][name]).any().item() for name, part in parts.items())
            }
            assert moved == set(KINDS[kind])

    def test_the_loss_is_the_mean_over_the_halves_of_its_batch(self, plain):
        """By their numbers of points, of the state before the iteration."""
        task, starts = plain
        settings = SETTINGS._replace(iterations=1, batch=5)
        found = learn_quietly(task, settings, start_state(starts["codes"])).losses
        parts = np.array_split(draw_points(task.training, settings, 0), PARTS)
        losses = [compare_fast(task, settings, starts["codes"], part).item() for part in parts]
        assert found == pytest.approx([np.average(losses, weights=[len(part) for part in parts])], rel=1e-5)

    def test_resuming_from_a_checkpoint_ends_with_equal_bits(self, coarse):
        task, starts = coarse
        settings, saved = SETTINGS._replace(unroll=2, iterations=5), []
        whole = learn_quietly(
            task, settings, start_state(starts["codes"]), lambda state: saved.append(copy_state(state))
        )
        assert [state.iteration for state in saved] == [2, 4]
        again = learn_quietly(task, settings, saved[0])
        assert again.losses == whole.losses
        assert_equal(again.learned, whole.learned)

    def test_with_a_learning_rate_of_zero_nothing_moves(self, plain):
        task, starts = plain
        settings = SETTINGS._replace(rate=0.0, code_rate=0.0, iterations=2)
        assert_equal(learn_quietly(task, settings, start_state(starts["codes"])).learned, starts["codes"])

    def test_learning_rates_follow_half_a_cosine_and_codes_have_their_own(self):
        rates = [[SETTINGS.choose_rate(kind, i) for i in range(6)] for kind in ("codes", "scales")]
        for found, first in zip(rates, (3e-3, 5e-4), strict=True):
            np.testing.assert_allclose(found, [first * (1 + np.cos(np.pi * i / 6)) / 2 for i in range(6)])

    def test_the_settings_are_the_parameters_of_the_stage(self):
        own = {f"distil_{name}": getattr(SETTINGS, name) for name in Settings._fields[1:9]}
        parameters = Distillation(seed=7, distil="scales", **own)
        assert Settings.read(parameters, 4.5) == SETTINGS._replace(kind="scales", guidance=4.5, seed=7)


class TestTeacher:
    def test_it_is_loaded_for_some_iterations_and_gone_while_the_student_learns(self, plain, monkeypatch):
        task, starts = plain
        settings, teachers, alive = SETTINGS._replace(iterations=3), [], []
        monkeypatch.setattr(distillation, "TAUGHT", 2)

        def load():
            model = create_model(**SMALL)
            teachers.append(weakref.ref(model))
            return model

        learn(
            task._replace(load_teacher=load),
            settings,
            start_state(starts["codes"]),
            lambda state: None,
            lambda loss: alive.append([teacher() is not None for teacher in teachers]),
        )
        assert alive == [[False], [False], [False, False]]

    def test_its_steps_are_those_of_the_sampler(self, study):
        """From a point's level to the next ones, each by the guided velocity."""
        task, _ = study
        settings = SETTINGS._replace(unroll=2)
        first, second = teach(task, settings, load_teacher(task), POINTS).steps
        np.testing.assert_array_equal(
            np.array(first.timesteps), np.tile(task.points.sigmas[POINTS], task.conditions) * 1000
        )
        following = np.array([max(level for level in LEVELS if level < task.points.sigmas[p]) for p in POINTS])
        np.testing.assert_array_equal(
            np.array(second.timesteps), np.tile(following, task.conditions) * np.float32(1000)
        )


class TestBroken:
    """What is not finite is named, and nothing is saved after it."""

    NAME = "mm_01.text.attn.v_proj"

    @pytest.mark.parametrize("place", ["scales", "zeros", "biases", "codes"])
    def test_the_layer_is_named(self, plain, place):
        """Others come before it, and every one is NaN after the iteration."""
        task, starts = plain
        learned = dict(starts["codes"])
        broken = learned[place][self.NAME] + (1e6 if place == "scales" else np.nan)
        learned[place] = learned[place] | {self.NAME: broken}
        saved = []
        with pytest.raises(UserError, match=rf"iteration 0 .* not finite, first in {place}\.{self.NAME};") as caught:
            learn_quietly(task, SETTINGS, start_state(learned), saved.append)
        assert "lower distil_rate and distil_code_rate" in str(caught.value)
        assert not saved

    def test_step_sizes_too(self, coarse):
        task, starts = coarse
        name = "mm_01.image.mlp.fc2"
        steps = starts["codes"]["steps"] | {name: starts["codes"]["steps"][name] + 1e4}
        with pytest.raises(UserError, match=rf"first in steps\.{name};"):
            learn_quietly(task, SETTINGS, start_state(starts["codes"] | {"steps": steps}))

    def test_an_absurd_rate_is_named_with_the_iteration(self, plain):
        task, starts = plain
        with pytest.raises(UserError, match=r"iteration [1-5] gives a value that is not finite, first in \w+\.\w+"):
            learn_quietly(task, SETTINGS._replace(rate=1e4), start_state(starts["codes"]))

    def test_otherwise_it_is_the_velocity(self, plain):
        task, starts = plain
        points = task.points._replace(xs=np.full_like(task.points.xs, np.nan))
        with pytest.raises(UserError, match="first in the velocity;"):
            learn_quietly(task._replace(points=points), SETTINGS, start_state(starts["codes"]))
