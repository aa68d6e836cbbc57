"""Protocol of a model: the interface that commands use for every model."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.latent_format import Latents


class Model(Protocol):
    """A module or object that implements a model. Weights are loaded on demand.

    PICTURE_SHAPE (H, W) and LATENT_SHAPE (h, w, c); compute_sigmas: noise levels (steps + 1,) for a number of steps.
    The type of a decoder is that returned by `load_decoder`.
    """

    @property
    def PICTURE_SHAPE(self) -> tuple[int, int]: ...  # noqa: N802

    @property
    def LATENT_SHAPE(self) -> tuple[int, int, int]: ...  # noqa: N802

    @property
    def compute_sigmas(self) -> Callable[[int], mx.array]: ...

    def file_digests(self) -> dict[str, str]:
        """sha256 of each weight file the pictures depend on, by name."""

    def load_transformer(self) -> Transformer:
        """Load the transformer."""

    def load_decoder(self) -> Any:
        """Load the decoder of the autoencoder."""

    def decode_latents(self, decoder: Any, latents: mx.array) -> np.ndarray:
        """Decode final latents (n, h, w, c) in the sampler's space to pictures (n, H, W, 3) uint8."""

    def decode_processed(self, decoder: Any, latents: mx.array) -> np.ndarray:
        """Decode latents (n, h, w, c), the output of `process_out`, to pictures (n, H, W, 3) uint8."""

    def process_out(self, latents: Latents) -> Latents:
        """Convert latents from the sampler's space to the decoder's."""

    def encode_prompts(self, prompts: list[str], negative_prompt: str = "") -> tuple[mx.array, mx.array]:
        """Text embeddings of each prompt's C conditions: token-level (n, C, T, D) and pooled (n, C, W), fp32."""

    def iterate_encodings(
        self, prompts: Sequence[str], negative_prompt: str, scratch: Path
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over the encodings of `encode_prompts` by prompt; `scratch` may hold temporary files."""

    def describe_dropped(self, texts: Sequence[str]) -> list[str]:
        """Phrases, with counts, that describe the parts of the texts that are dropped; empty if there are none."""
