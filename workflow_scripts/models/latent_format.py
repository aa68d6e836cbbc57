"""The latent space of Stable Diffusion 3: the sampler works on x0 = (encoder mean - shift) * scale."""

from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

SD3_SCALE, SD3_SHIFT = 1.5305, 0.0609
Latents = TypeVar("Latents", mx.array, np.ndarray)


def process_out(latents: Latents) -> Latents:
    """From the sampler's space to the decoder's, as DiffusionKit's `SD3LatentFormat.process_out`."""
    return latents / SD3_SCALE + SD3_SHIFT


def decode_pictures(decoder: Any, latents: mx.array, dtype: mx.Dtype, batch: int) -> np.ndarray:
    """Pictures (n, H, W, 3) uint8 of latents (n, h, w, 16) that `process_out` gave, `batch` at a time."""
    pictures = []
    for start in range(0, len(latents), batch):
        x = decoder(latents[start : start + batch].astype(dtype))
        pictures.append(np.array(mx.round(mx.clip(x / 2 + 0.5, 0, 1) * 255).astype(mx.uint8)))
    return np.concatenate(pictures)
