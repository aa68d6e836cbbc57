"""Latent spaces of Stable Diffusion 3 and FLUX: the sampler works on x0 = (encoder mean - shift) * scale."""

from typing import Any, NamedTuple, TypeVar

import mlx.core as mx
import numpy as np

Latents = TypeVar("Latents", mx.array, np.ndarray)


class LatentFormat(NamedTuple):
    """Scale and shift of a latent space, as in DiffusionKit's class of the same name."""

    scale: float
    shift: float

    def process_out(self, latents: Latents) -> Latents:
        """Convert latents from the sampler's space to the decoder's."""
        return latents / self.scale + self.shift


SD3_SCALE, SD3_SHIFT = 1.5305, 0.0609
SD3_LATENTS, FLUX_LATENTS = LatentFormat(SD3_SCALE, SD3_SHIFT), LatentFormat(0.3611, 0.1159)
process_out = SD3_LATENTS.process_out


def decode_pictures(decoder: Any, latents: mx.array, dtype: mx.Dtype, batch: int) -> np.ndarray:
    """Decode latents (n, h, w, 16), the output of `process_out`, to pictures (n, H, W, 3) uint8, `batch` at a time."""
    pictures = []
    for start in range(0, len(latents), batch):
        x = decoder(latents[start : start + batch].astype(dtype))
        pictures.append(np.array(mx.round(mx.clip(x / 2 + 0.5, 0, 1) * 255).astype(mx.uint8)))
    return np.concatenate(pictures)
