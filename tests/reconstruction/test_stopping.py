"""A block stops learning when the held-out error no longer falls, and resumes as if it had not been interrupted."""

from dataclasses import replace

import numpy as np
import pytest

from taqmlx.reconstruction.state import read_quantizers
from taqmlx.reconstruction.state_arrays import pack_state, unpack_state
from taqmlx.reconstruction.stopping import MEASUREMENTS, has_stopped, is_measured, measure_held_out
from taqmlx.store.learning_state import read_learning, write_learning
from tests.support.blocks import SETTINGS, as_arrays, learn_quietly

# At this rate the codes jump about, and so does the error.
RUINED = replace(SETTINGS, adaround_iterations=20, adaround_rate=3.0, adaround_weight=0, adaround_patience=1)


@pytest.mark.parametrize(
    ("errors", "patience", "stopped"),
    [
        ([], 1, False),
        ([3.0, 2.0, 1.0], 1, False),
        ([1.0, 2.0], 1, True),
        ([2.0, 1.0, 3.0], 2, False),
        ([2.0, 1.0, 3.0, 1.5], 2, True),
        ([1.0, 2.0, 3.0], 0, False),
    ],
)
def test_learning_stops_when_the_least_error_is_old(errors, patience, stopped):
    assert has_stopped(errors, patience) is stopped


@pytest.mark.parametrize("iterations", [20, 37, 300, 2000])
def test_the_error_is_measured_a_fixed_number_of_times_and_at_the_end(iterations):
    measured = [i for i in range(1, iterations + 1) if is_measured(i, iterations)]
    assert len(measured) == MEASUREMENTS
    assert measured[-1] == iterations
    assert np.ptp(np.diff([0, *measured])) <= 1


def test_without_patience_nothing_is_measured_and_with_it_the_result_is_the_same_if_it_does_not_stop(study, flat):
    problem, _, _, quantizers = study
    plain, patient = (
        learn_quietly(problem, flat, quantizers, replace(SETTINGS, adaround_patience=patience)) for patience in (0, 20)
    )
    for name, value in as_arrays(plain).items():
        np.testing.assert_array_equal(value, as_arrays(patient)[name], err_msg=name)


def test_learning_stops_where_the_error_no_longer_falls(study, flat, tmp_path):
    """The state of the first checkpoint is told of an error that nothing undercuts: two measurements later it ends."""
    problem, _, _, quantizers = study
    settings, paths = replace(SETTINGS, adaround_iterations=20, adaround_patience=2), []

    def save(state):
        paths.append(tmp_path / f"{len(state.losses)}.safetensors")
        write_learning(paths[-1], "seal", *pack_state(state))

    whole = learn_quietly(problem, flat, quantizers, replace(settings, adaround_patience=20), save=save)
    assert len(whole.losses) == 20
    state = unpack_state(read_learning(paths[0], "seal"))
    state.errors = [0.0]
    stopped = learn_quietly(problem, flat, quantizers, settings, state)
    assert len(stopped.losses) == settings.adaround_checkpoint_every + 2
    assert stopped.losses == whole.losses[: len(stopped.losses)]


def test_a_resumed_block_stops_where_the_whole_one_does(study, flat, tmp_path):
    problem, _, _, quantizers = study
    paths = []

    def save(state):
        paths.append(tmp_path / f"{len(state.losses)}.safetensors")
        write_learning(paths[-1], "seal", *pack_state(state))

    whole = learn_quietly(problem, flat, quantizers, RUINED, save=save)
    for path in paths:
        resumed = learn_quietly(problem, flat, quantizers, RUINED, unpack_state(read_learning(path, "seal")))
        assert resumed.losses == whole.losses
        assert np.array_equal(resumed.alpha, whole.alpha)


def test_the_measured_error_is_that_of_the_rounded_weights(study, flat):
    problem, _, grids, quantizers = study
    state = learn_quietly(problem, flat, quantizers, SETTINGS)
    hard = flat.split(flat.harden(state.alpha))
    error = measure_held_out(problem, hard, read_quantizers(quantizers, state))
    coarse = {name: weight + 0.05 for name, weight in hard.items()}
    assert 0 < error < measure_held_out(problem, coarse, read_quantizers(quantizers, state))
    for name, weight in hard.items():
        codes = (np.array(weight).reshape(len(weight), -1, 64) - grids[name].biases[..., None]) / grids[name].scales[
            ..., None
        ]
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-2, err_msg=name)
