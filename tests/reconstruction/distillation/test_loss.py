"""The loss of distillation agrees with slow versions, and its gradients with finite differences."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_linears, bind_weights, predict_velocity
from taqmlx.numerics.activation import find_largest_code
from taqmlx.numerics.weight_grid import expand_groups
from taqmlx.reconstruction import distillation, velocity_loss
from taqmlx.reconstruction.distillation import KINDS, measure_held_out
from taqmlx.reconstruction.stages import BY_STAGE, WHOLE
from taqmlx.reconstruction.velocity_loss import load_teacher, teach
from tests.mmdit.test_calibration_points import SIGMAS
from tests.support.distillation import POINTS, SETTINGS, compare_fast
from tests.support.students import move


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
        monkeypatch.setattr(distillation, "MEASURED_POINTS", 2)
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
