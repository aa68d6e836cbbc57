"""Whole trajectories equal those of DiffusionKit's sampler."""

import mlx.core as mx
import pytest

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import bind_step
from taqmlx.numerics import schedule
from tools import reference

STEPS, CFG_WEIGHT, SEEDS = 8, 4.0, [7, 1234]


@pytest.fixture(scope="module")
def text():
    """Two prompts, each with its negative: context (2, 2, 20, 128) and pooled (2, 2, 128)."""
    keys = mx.random.split(mx.random.key(5), 2)
    return mx.random.normal((2, 2, 20, 128), key=keys[0]), mx.random.normal((2, 2, 128), key=keys[1])


def test_a_batch_of_two_prompts_follows_diffusionkit(transformer, text):
    sigmas = schedule.compute_sigmas(STEPS, reference.SHIFT)
    latents = schedule.start_latents(schedule.draw_noise(SEEDS, 8, 8, 16), sigmas[0])
    linear = bind_linears(transformer)
    advance = bind_step(transformer, lambda sigma: linear, *text, mx.array([0, 1]), sigmas, CFG_WEIGHT)
    for step in range(STEPS):
        latents = advance(latents, step)

    pipeline, expected_sigmas = reference.Pipeline(transformer), reference.get_sigmas(STEPS)
    for index, seed in enumerate(SEEDS):
        first = reference.get_first_latents(seed, 8, 8, expected_sigmas[0])
        expected = reference.sample_euler(pipeline, first, expected_sigmas, text[0][index], text[1][index], CFG_WEIGHT)
        error = mx.linalg.norm(latents[index] - expected[0]) / mx.linalg.norm(expected)
        assert error.item() <= 1e-5
