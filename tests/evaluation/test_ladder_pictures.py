"""Compared pictures start from the same prompts and noise."""

import numpy as np

from taqmlx.evaluation.ladder_pictures import start_pictures
from taqmlx.models import embedded
from taqmlx.numerics.schedule import compute_sigmas, draw_noise
from taqmlx.planning.stages import SampleRung
from taqmlx.store.conditioning import open_conditioning, write_conditioning

PARAMETERS = SampleRung(
    model="embedded",
    negative_prompt="",
    seed=4,
    cfg_scale=3.0,
    trajectories=5,
    ladder_pictures=3,
    ladder_steps=6,
    prompts=["a red circle", "a green square"],
)


def test_prompts_are_cycled_and_seeds_follow_those_of_the_trajectories(tmp_path):
    rng = np.random.default_rng(0)
    cs, cs_pooled = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 3, 4), (2, 2, 4)))
    path = tmp_path / "conditioning.safetensors"
    write_conditioning(path, PARAMETERS.encode(), {}, zip(cs, cs_pooled, strict=True))
    found = start_pictures(PARAMETERS, embedded, open_conditioning(path, PARAMETERS.encode()))
    noise, sigmas = draw_noise([9, 10, 11], *embedded.LATENT_SHAPE), compute_sigmas(6, embedded.SAMPLER_SHIFT)
    for part, expected in zip(found, (cs[[0, 1, 0]], cs_pooled[[0, 1, 0]], noise, sigmas), strict=True):
        np.testing.assert_array_equal(np.array(part), np.array(expected))
