"""The schedule, the noise and the Euler step equal DiffusionKit's."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.models.diffusionkit import sampler
from taqmlx.numerics import schedule
from tools import reference


def step_slowly(latents, velocity, sigma, next_sigma, weight):
    """Row by row in float64, as the equations read."""
    stepped = []
    for x, positive, negative in zip(latents, *np.split(velocity, 2), strict=True):
        guided = negative + weight * (positive - negative)
        stepped.append(x + (next_sigma - sigma) * guided)
    return np.stack(stepped)


@pytest.mark.parametrize("num_steps", [1, 2, 25, 50])
def test_sigmas_are_those_of_diffusionkit(num_steps):
    sigmas = np.array(schedule.compute_sigmas(num_steps, reference.SHIFT))
    assert sigmas.shape == (num_steps + 1,)
    np.testing.assert_allclose(sigmas, np.array(reference.get_sigmas(num_steps)), rtol=2e-7)


def test_sigmas_fall_from_one_to_zero():
    sigmas = np.array(schedule.compute_sigmas(30, 3.0))
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0
    assert (np.diff(sigmas) < 0).all()
    assert sigmas[-2] == pytest.approx(0.00893, abs=1e-5)


def test_without_a_shift_sigma_is_the_timestep():
    np.testing.assert_allclose(np.array(schedule.shift_sigma(mx.array([0.0, 250.0, 1000.0]), 1.0)), [0, 0.25, 1])


def test_timesteps_are_those_of_diffusionkit():
    sigmas = schedule.compute_sigmas(25, 3.0)
    assert mx.array_equal(schedule.compute_timesteps(sigmas), sampler.ModelSamplingDiscreteFlow(3.0).timestep(sigmas))


def test_noise_is_that_of_diffusionkit_for_each_seed():
    first = schedule.compute_sigmas(10, 3.0)[0]
    latents = schedule.start_latents(schedule.draw_noise([3, 42], 6, 8, 16), first)
    for index, seed in enumerate([3, 42]):
        assert mx.array_equal(latents[index], reference.get_first_latents(seed, 6, 8, first)[0])


def test_a_later_start_keeps_part_of_the_empty_latent():
    latents = schedule.start_latents(mx.ones((1, 2, 2, 16)), mx.array(0.25))
    np.testing.assert_allclose(np.array(latents), 0.25 + 0.75 * 0.0609, rtol=1e-6)


def test_drawing_noise_does_not_change_the_global_generator():
    np.random.seed(5)
    expected = np.random.randn()
    np.random.seed(5)
    schedule.draw_noise([1], 2, 2, 16)
    assert np.random.randn() == expected


@pytest.mark.parametrize("weight", [0.0, 1.0, 4.5])
def test_an_euler_step_follows_the_guided_velocity(weight):
    rng = np.random.default_rng(0)
    latents, velocity = rng.standard_normal((3, 4, 4, 2)), rng.standard_normal((6, 4, 4, 2))
    arrays = (mx.array(values.astype(np.float32)) for values in (latents, velocity))
    stepped = schedule.euler_step(*arrays, mx.array(0.7), mx.array(0.6), weight)
    np.testing.assert_allclose(np.array(stepped), step_slowly(latents, velocity, 0.7, 0.6, weight), atol=2e-6)


def test_without_a_negative_prompt_the_velocity_is_not_guided():
    rng = np.random.default_rng(0)
    latents, velocity = rng.standard_normal((2, 3, 4, 4, 2)).astype(np.float32)
    stepped = schedule.euler_step(*map(mx.array, (latents, velocity)), mx.array(0.7), mx.array(0.6), 1.0)
    np.testing.assert_allclose(np.array(stepped), latents - 0.1 * velocity, atol=2e-6)


def test_each_row_may_have_its_own_sigma():
    rng = np.random.default_rng(1)
    latents, velocity = rng.standard_normal((2, 4, 4, 2)), rng.standard_normal((4, 4, 4, 2))
    sigmas = mx.array([0.9, 0.2]).reshape(2, 1, 1, 1)
    stepped = schedule.euler_step(
        *(mx.array(values.astype(np.float32)) for values in (latents, velocity)), sigmas, sigmas - 0.1, 3.0
    )
    for row, sigma in enumerate([0.9, 0.2]):
        expected = step_slowly(latents[row : row + 1], velocity[row::2], sigma, sigma - 0.1, 3.0)
        np.testing.assert_allclose(np.array(stepped[row]), expected[0], atol=2e-6)
