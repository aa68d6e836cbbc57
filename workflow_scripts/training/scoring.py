"""What the embedded model can do: does a picture show what its caption asked for?"""

from pathlib import Path

import mlx.core as mx
import numpy as np

from workflow_scripts.mmdit.forward import bind_linears
from workflow_scripts.mmdit.sampling import bind_step
from workflow_scripts.models import embedded
from workflow_scripts.models.classifier import HEADS, compare_attributes
from workflow_scripts.numerics.schedule import compute_sigmas, draw_noise, start_latents
from workflow_scripts.training.captions import Caption, sample_scene, write_caption

BATCH = 32  # trajectories advanced together


def write_captions(seed: int, count: int, objects: int) -> list[Caption]:
    """`count` captions of scenes with `objects` (1 or 2) objects, of combinations kept out of the training."""
    rng = np.random.default_rng((seed, objects))
    return [write_caption(rng, sample_scene(rng, objects, held_out=True)) for _ in range(count)]


def generate_pictures(folder: Path, prompts: list[str], steps: int, cfg_weight: float, seed: int) -> np.ndarray:
    """One picture per prompt, (n, 64, 64, 3) uint8, by the model in `folder`; picture i starts at noise `seed` + i."""
    model, decoder = embedded.load_transformer(folder=folder), embedded.load_decoder(folder)
    cs, cs_pooled = embedded.encode_prompts(prompts, folder=folder)
    linear, sigmas = bind_linears(model), compute_sigmas(steps, embedded.SAMPLER_SHIFT)
    pictures = []
    for start in range(0, len(prompts), BATCH):
        rows = slice(start, min(start + BATCH, len(prompts)))
        count = rows.stop - rows.start
        advance = bind_step(model, linear, cs[rows], cs_pooled[rows], mx.arange(count), sigmas, cfg_weight)
        latents = start_latents(
            draw_noise(range(seed + rows.start, seed + rows.stop), *embedded.LATENT_SHAPE), sigmas[0]
        )
        for step in range(steps):
            latents = advance(latents, step)
            mx.eval(latents)
        pictures.append(embedded.decode_latents(decoder, latents))
    return np.concatenate(pictures)


def rate_pictures(values: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Shares of right pictures: `all` asked attributes at once, and each attribute where it was asked.

    `values` and `asked` (n, attributes), as the classifier orders them; -1 in `asked` is "not asked".
    """
    right = compare_attributes(values, asked)
    shares = {"all": float(right.all(axis=1).mean())}
    for column, name in enumerate(HEADS):
        named = asked[:, column] >= 0
        if named.any():
            shares[name] = float(right[named, column].mean())
    return {name: round(share, 4) for name, share in shares.items()}


def measure_psnr(pictures: np.ndarray, references: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures, from the squared error over all of them."""
    error = pictures.astype(np.float32) - references.astype(np.float32)
    return float(10 * np.log10(255**2 / np.square(error).mean()))
