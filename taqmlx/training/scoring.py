"""Scoring of the embedded model: agreement of pictures with their captions."""

from pathlib import Path

import numpy as np

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import sample
from taqmlx.models import embedded
from taqmlx.models.classifier import HEADS, compare_attributes
from taqmlx.numerics.schedule import compute_sigmas, draw_noise
from taqmlx.training.captions import Caption, sample_scene, write_caption


def write_captions(seed: int, count: int, objects: int) -> list[Caption]:
    """Write `count` captions of scenes with `objects` (1 or 2) objects, from held-out combinations."""
    rng = np.random.default_rng((seed, objects))
    return [write_caption(rng, sample_scene(rng, objects, held_out=True)) for _ in range(count)]


def generate_pictures(folder: Path, prompts: list[str], steps: int, cfg_weight: float, seed: int) -> np.ndarray:
    """Generate one picture per prompt, (n, 64, 64, 3) uint8, with the model in `folder`; seeds are `seed` + i."""
    model, decoder = embedded.load_transformer(folder=folder), embedded.load_decoder(folder)
    cs, cs_pooled = embedded.encode_prompts(prompts, folder=folder)
    linear, sigmas = bind_linears(model), compute_sigmas(steps, embedded.SAMPLER_SHIFT)
    noise = draw_noise(range(seed, seed + len(prompts)), *embedded.LATENT_SHAPE)
    latents = sample(model, lambda sigma: linear, cs, cs_pooled, noise, sigmas, cfg_weight)
    return embedded.decode_latents(decoder, latents)


def rate_pictures(values: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Shares of correct pictures: `all` requested attributes at once, and each attribute where requested.

    `values` and `asked` (n, attributes) are in the classifier's order; -1 in `asked` means not requested.
    """
    right = compare_attributes(values, asked)
    shares = {"all": float(right.all(axis=1).mean())}
    for column, name in enumerate(HEADS):
        named = asked[:, column] >= 0
        if named.any():
            shares[name] = float(right[named, column].mean())
    return {name: round(share, 4) for name, share in shares.items()}
