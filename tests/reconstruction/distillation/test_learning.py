"""Distillation lowers its loss, resumes to equal bits, and names what is not finite."""

import weakref

import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from taqmlx.planning.stage_groups import Distillation
from taqmlx.reconstruction import distillation
from taqmlx.reconstruction.distillation import KINDS, PARTS, State, draw_points, learn
from taqmlx.reconstruction.velocity_loss import Settings, load_teacher, teach
from taqmlx.store.errors import UserError
from tests.support.distillation import LEVELS, POINTS, SETTINGS, SMALL, compare_fast
from tests.support.students import create_model


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
