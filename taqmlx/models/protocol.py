"""The type of a model: what a command asks of one, whichever it is."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.latent_format import Latents


class Model(Protocol):
    """A model, a module or an object. Nothing of it is loaded before it is asked for.

    PICTURE_SHAPE (H, W) and LATENT_SHAPE (h, w, c); compute_sigmas: the noise levels (steps + 1,) of a number of steps.
    A decoder is whatever `load_decoder` gives.
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
        """The transformer."""

    def load_decoder(self) -> Any:
        """The decoder of the autoencoder."""

    def decode_latents(self, decoder: Any, latents: mx.array) -> np.ndarray:
        """Pictures (n, H, W, 3) uint8 of final latents (n, h, w, c) in the sampler's space."""

    def decode_processed(self, decoder: Any, latents: mx.array) -> np.ndarray:
        """Pictures (n, H, W, 3) uint8 of latents (n, h, w, c) that `process_out` gave."""

    def process_out(self, latents: Latents) -> Latents:
        """From the sampler's space to the decoder's."""

    def encode_prompts(self, prompts: list[str], negative_prompt: str = "") -> tuple[mx.array, mx.array]:
        """Text embeddings of each prompt's C conditions: of tokens (n, C, T, D) and pooled (n, C, W), fp32."""

    def iterate_encodings(
        self, prompts: Sequence[str], negative_prompt: str, scratch: Path
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What `encode_prompts` gives, prompt by prompt; a file in the folder `scratch` may hold what waits."""

    def describe_dropped(self, texts: Sequence[str]) -> list[str]:
        """Phrases that say with counts what of the texts is not read; none if everything is."""
