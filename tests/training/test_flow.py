"""The rectified flow that the transformer learns, and its captions."""

import numpy as np
import torch

from taqmlx.models.embedded import load_tokenizer
from taqmlx.models.tokenizer import BOS, PAD, UNKNOWN
from taqmlx.training.captions import sample_scene
from taqmlx.training.flow import caption_scenes, measure_flow_loss, sample_sigma
from taqmlx.training.recipe import CAPTION_DROPOUT


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_noise_levels_are_shifted_towards_noise():
    sigma = sample_sigma(20_000, seed())
    assert sigma.min() > 0
    assert sigma.max() < 1
    assert abs(sigma.median().item() - 3 * 0.5 / (1 + 2 * 0.5)) < 0.01  # the shift of the middle, 0.5


def test_the_loss_is_zero_for_the_true_velocity():
    latents = torch.randn(64, 2, 4, 4, generator=seed(1))

    def know_the_latents(noisy, tokens, sigma):
        return (noisy - latents) / sigma[:, None, None, None]  # x_t - x0 = sigma (noise - x0)

    assert measure_flow_loss(know_the_latents, latents, None, seed(2)) < 1e-6


def test_some_captions_are_dropped_and_some_words_unknown():
    rng, tokenizer = np.random.default_rng(0), load_tokenizer()
    scenes = np.array([tuple(sample_scene(rng, 1 + i % 2).values()) for i in range(2000)])
    tokens = caption_scenes(scenes, tokenizer, 1)
    empty = (tokens[:, 0] == BOS) & (tokens[:, 1] == tokenizer.eos)
    assert abs(empty.float().mean() - CAPTION_DROPOUT) < 0.03
    assert 0 < (tokens == UNKNOWN).sum() < 0.02 * (tokens != PAD).sum()
    assert torch.equal(tokens, caption_scenes(scenes, tokenizer, 1))
