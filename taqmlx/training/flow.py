"""Rectified flow: noisy latents, the target velocity, and the joint loss of text model and transformer."""

import numpy as np
import torch
from torch import Tensor, nn

from taqmlx.models.tokenizer import Tokenizer
from taqmlx.training.captions import FIELDS, write_caption
from taqmlx.training.recipe import CAPTION_DROPOUT, TIMESTEP_SHIFT, UNKNOWN_WORDS
from taqmlx.training.text import TextModel
from taqmlx.training.transformer import Transformer


class TextToImage(nn.Module):
    """Text encoder and transformer, trained jointly."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.text_encoder = TextModel(vocabulary)
        self.transformer = Transformer()

    def forward(self, latents: Tensor, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Velocity (b, 16, 8, 8) for noisy `latents`, token ids (b, 20) and noise levels (b,) in [0, 1]."""
        cs, cs_pooled = self.text_encoder(tokens)
        return self.transformer(latents, cs, cs_pooled, 1000.0 * sigma)


def sample_sigma(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels (count,): logit-normal, shifted towards noise (Esser et al., 2024, section 3.1 and equation 23)."""
    sigma = torch.sigmoid(torch.randn(count, generator=generator))
    return TIMESTEP_SHIFT * sigma / (1 + (TIMESTEP_SHIFT - 1) * sigma)


def measure_flow_loss(model: TextToImage, latents: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity noise - x0 at x_t = sigma noise + (1 - sigma) x0; latents (b, 16, 8, 8)."""
    noise = torch.randn(latents.shape, generator=generator)
    sigma = sample_sigma(len(latents), generator)
    level = sigma[:, None, None, None]
    velocity = model(level * noise + (1 - level) * latents, tokens, sigma)
    return (velocity.float() - (noise - latents)).square().mean()


def caption_scenes(scenes: np.ndarray, tokenizer: Tokenizer, seed: int) -> Tensor:
    """Token ids (b, 20) of a new caption for each row of `scenes` (b, 10), with caption dropout and unknown words."""
    rng = np.random.default_rng(seed)
    texts = [write_caption(rng, dict(zip(FIELDS, row, strict=True))).text for row in scenes.tolist()]
    texts = [spoil_words(rng, text) if rng.random() >= CAPTION_DROPOUT else "" for text in texts]
    return torch.from_numpy(tokenizer.encode(texts)).long()


def spoil_words(rng: np.random.Generator, text: str) -> str:
    """Replace some words of `text` by one outside the vocabulary."""
    return " ".join("?unknown?" if rng.random() < UNKNOWN_WORDS else word for word in text.split())
