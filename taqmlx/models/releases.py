"""Properties of the released models: files, text encoders, schedule, latent space and 16-bit dtype."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from taqmlx.models.latent_format import FLUX_LATENTS, SD3_LATENTS, LatentFormat
from taqmlx.models.weight_files import AUTOENCODERS, CHECKPOINT_REPO, FLUX_REPO, LARGE_REPO, TRANSFORMERS, WeightFile
from taqmlx.numerics.schedule import compute_even_sigmas, compute_sigmas


@dataclass(frozen=True)
class Release:
    """One released model, as defined by DiffusionKit.

    clip_models: CLIP encoders, which give the pooled embedding; clip_tokens: True if their tokens precede T5's;
    t5_tokens: number of T5 tokens; guided: True if there is a negative prompt; compute_sigmas: noise levels (steps +
    1,) for a number of steps; half: compute dtype on a GPU.
    """

    repo: str
    clip_models: tuple[str, ...]
    clip_tokens: bool
    t5_tokens: int
    guided: bool
    compute_sigmas: Callable[[int], mx.array]
    latents: LatentFormat
    half: mx.Dtype

    @property
    def transformer(self) -> WeightFile:
        """File of the transformer."""
        return TRANSFORMERS[self.repo]

    @property
    def autoencoder(self) -> WeightFile:
        """File of the autoencoder, which can be the same."""
        return AUTOENCODERS[self.repo]


_SD3 = partial(
    Release,
    clip_models=("clip_l", "clip_g"),
    clip_tokens=True,
    t5_tokens=512,
    guided=True,
    compute_sigmas=partial(compute_sigmas, shift=3.0),
    latents=SD3_LATENTS,
    half=mx.float16,
)
RELEASES = {
    "sd3-medium": _SD3(CHECKPOINT_REPO),
    "sd3.5-large": _SD3(LARGE_REPO),
    "flux-schnell": Release(
        FLUX_REPO,
        clip_models=("clip_l",),
        clip_tokens=False,
        t5_tokens=256,
        guided=False,
        compute_sigmas=compute_even_sigmas,
        latents=FLUX_LATENTS,
        half=mx.bfloat16,
    ),
}
