"""Trajectories of the trained model are as close to DiffusionKit's sampler as with MLX's own functions.

Rounding differs between the two and grows along a trajectory, so how near that is depends on the model and the prompt.
"""

import contextlib
import io

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import sample
from taqmlx.models import embedded
from taqmlx.numerics import schedule
from taqmlx.numerics.elementwise import KERNELS
from tools import reference

PROMPTS = [
    "a red circle left of a blue square",
    "a small green triangle",
    "a large yellow star above a white circle",
    "a red red red red red circle",
    "three purple dragons",  # the model knows colours and shapes: most words from here on are unknown to it
    "three purple dragons over a castle",
    "three purple dragons dance on a blue moon",
    "zxqv wobble",
    "",
]
SEED, WIDTH = 12345, 8
FACTOR = 2.0  # polynomials within 2e-6 and 4e-6 were at 5 to 9


def sample_ours(model, text, steps, cfg_weight):
    """The final latents of all prompts (P, h, w, c), drawn as one batch."""
    noise = schedule.draw_noise([SEED] * len(PROMPTS), WIDTH, WIDTH, 16)
    linear, sigmas = bind_linears(model), schedule.compute_sigmas(steps, reference.SHIFT)
    return np.array(sample(model, lambda sigma: linear, *text, noise, sigmas, cfg_weight))


def sample_by_diffusionkit(model, text, steps, cfg_weight):
    """The same by DiffusionKit, one after the other."""
    pipeline, sigmas = reference.Pipeline(model), reference.get_sigmas(steps)
    first = reference.get_first_latents(SEED, WIDTH, WIDTH, sigmas[0])
    with contextlib.redirect_stderr(io.StringIO()):  # it shows a progress bar
        rows = [reference.sample_euler(pipeline, first, sigmas, *pair, cfg_weight) for pair in zip(*text, strict=True)]
    return np.concatenate([np.array(row) for row in rows])


def measure_drift(latents, wanted):
    """The geometric mean over the prompts of the largest difference of a value."""
    return np.exp(np.log(np.abs(latents - wanted).max(axis=(1, 2, 3))).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "cfg_weight"), [(17, 1.5), pytest.param(50, 3.0, marks=pytest.mark.whole)])
def test_trajectories_drift_no_further_than_with_the_functions_of_mlx(monkeypatch, steps, cfg_weight):
    model = embedded.load_transformer()
    text = embedded.encode_prompts(PROMPTS, "")
    wanted = sample_by_diffusionkit(model, text, steps, cfg_weight)
    drift = measure_drift(sample_ours(model, text, steps, cfg_weight), wanted)
    monkeypatch.setitem(KERNELS, mx.cpu, KERNELS[mx.gpu])
    assert drift <= FACTOR * measure_drift(sample_ours(model, text, steps, cfg_weight), wanted)
    assert drift <= 1e-5
