"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206) and FLUX.1-schnell, from their published files.

They use DiffusionKit's own modules, loaded with the files' weights under DiffusionKit's names. Computation is in 16
bits on a GPU and in fp32 on a CPU, where 16-bit products are some hundred times slower.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from taqmlx.models import loaders
from taqmlx.models.checkpoints import count_weights
from taqmlx.models.diffusionkit import mmdit, vae
from taqmlx.models.hub_download import download_files
from taqmlx.models.hub_view import serve_files
from taqmlx.models.latent_format import decode_pictures
from taqmlx.models.releases import RELEASES, Release
from taqmlx.models.sd3_text import TextEncoder, describe_dropped
from taqmlx.models.weight_files import (
    TITLES,
    Located,
    WeightFile,
    digest_files,
    find_file,
    is_folder,
    list_text_files,
    locate_files,
)
from taqmlx.store.errors import UserError
from taqmlx.store.preflight import check_memory

PIXELS = 8  # picture pixels per latent pixel, along each axis
LATENT_CHANNELS = 16
EDGE, LARGEST_EDGE = 16, 1536  # pixels: a latent patch, and the size of the position table
WEIGHTS = ".safetensors"
DECODE_PIXELS = 512 * 512  # decoded at a time, to bound memory


class ReleasedModel:
    """A model at one picture size; weights are loaded on demand."""

    def __init__(
        self,
        release: Release,
        weights_from: str | None,
        use_t5: bool,
        height: int,
        width: int,
        dtype: mx.Dtype | None = None,
    ):
        """A `weights_from` of None selects the model's repository on the Hub.

        Raises UserError for the repository of another model, and for a size that is not a multiple of the latent patch
        or exceeds the position table.
        """
        for side in (height, width):
            if side % EDGE or not EDGE <= side <= LARGEST_EDGE:
                raise UserError(f"{height} x {width} pixels: sides must be multiples of {EDGE}, at most {LARGEST_EDGE}")
        self.release, self.weights_from, self.use_t5 = release, choose_source(release, weights_from), use_t5
        self.dtype = dtype or (release.half if mx.default_device().type == mx.gpu else mx.float32)
        self.compute_sigmas, self.process_out = release.compute_sigmas, release.latents.process_out
        self.PICTURE_SHAPE = (height, width)
        self.LATENT_SHAPE = (height // PIXELS, width // PIXELS, LATENT_CHANNELS)

    def list_files(self) -> list[WeightFile]:
        """Every file the pictures depend on."""
        return list_files(self.release, self.use_t5)

    def file_digests(self) -> dict[str, str]:
        """sha256 of each of these files, by its name in a local folder. Raises UserError if one is missing."""
        files = self._locate(self.list_files())
        return {name: digest for located in files.values() for name, digest in digest_files(located).items()}

    def load_transformer(self) -> mmdit.MMDiT:
        """Load the MMDiT; its weights are read on use."""
        return loaders.load_transformer(self.release, self._locate([self.release.transformer]), self.dtype)

    def load_key_biases(self) -> dict[str, mx.array]:
        """Biases (out,) of FLUX's key projections, which the transformer leaves out, by module path."""
        return loaders.load_key_biases(self.release, self._locate([self.release.transformer]))

    def load_decoder(self) -> vae.VAEDecoder:
        """Load the decoder of the autoencoder."""
        return loaders.load_decoder(self.release, self._locate([self.release.autoencoder]), self.dtype)

    def decode_latents(self, decoder: vae.VAEDecoder, latents: mx.array) -> np.ndarray:
        """Decode final latents (n, H / 8, W / 8, 16) in the sampler's space to pictures (n, H, W, 3) uint8."""
        return self.decode_processed(decoder, self.process_out(latents.astype(mx.float32)))

    def decode_processed(self, decoder: vae.VAEDecoder, latents: mx.array) -> np.ndarray:
        """Decode latents (n, H / 8, W / 8, 16), the output of `process_out`, to pictures (n, H, W, 3) uint8."""
        height, width = self.PICTURE_SHAPE
        return decode_pictures(decoder, latents, self.dtype, max(1, DECODE_PIXELS // (height * width)))

    def encode_prompts(self, prompts: list[str], negative_prompt: str = "") -> tuple[mx.array, mx.array]:
        """Text embeddings of each prompt's C conditions: token-level (n, C, T, 4096) and pooled (n, C, W), fp32.

        Index 0 is the prompt and index 1 the negative prompt; C is 1 without guidance. T and W are those of
        `TextEncoder`.
        """
        encodings = self.iterate_encodings(prompts, negative_prompt)
        cs, cs_pooled = map(np.stack, zip(*encodings, strict=True))
        return mx.array(cs), mx.array(cs_pooled)

    def iterate_encodings(
        self, prompts: Sequence[str], negative_prompt: str, scratch: Path | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over the encodings of `encode_prompts` by prompt, in constant memory.

        A file in folder `scratch` holds intermediate results for more than some hundred prompts.
        """
        files = self._locate(list_text_files(self.use_t5, self.release.clip_models))
        self.check_encoding_memory(files.values())
        shared = [negative_prompt] if self.release.guided else []
        with serve_tokenizers(files.values()):
            encoder = TextEncoder(self.release, [*shared, *prompts], files, self.dtype, scratch)
        encodings = iter(encoder)
        negatives = [next(encodings) for _ in shared]
        for positive in encodings:
            yield tuple(np.stack(parts) for parts in zip(positive, *negatives, strict=True))
        mx.clear_cache()

    def describe_dropped(self, texts: Sequence[str]) -> list[str]:
        """Phrases, with counts, that describe the parts of the texts dropped by the text encoders; empty if there are
        none.

        Raises UserError for a character that CLIP's vocabulary lacks.
        """
        files = self._locate(list_text_files(self.use_t5, self.release.clip_models))
        with serve_tokenizers(files.values()):
            return describe_dropped(self.release, texts, self.use_t5)

    def check_encoding_memory(self, files: Iterable[Located]) -> None:
        """Raise UserError if this machine has too little memory for the largest text encoder."""
        largest = max(count_weights(located) for located in files if located.file.name.endswith(WEIGHTS))
        advice = "disable T5 (use_t5: false), or use a machine with more" if self.use_t5 else "use a machine with more"
        check_memory(largest * self.dtype.size, "the largest text encoder", advice)

    def _locate(self, files: Iterable[WeightFile]) -> dict[WeightFile, Located]:
        """Locate the files. Raises UserError if one is missing."""
        return locate_files(self.weights_from, files)


@contextmanager
def serve_tokenizers(files: Iterable[Located]) -> Iterator[None]:
    """Context in which DiffusionKit loads the tokenizers among the files. Raises UserError, naming them, on failure."""
    served = [located for located in files if not located.file.name.endswith(WEIGHTS)]
    try:
        with serve_files(served):
            yield
    except (ValueError, KeyError) as error:
        names = ", ".join(located.file.name for located in served)
        where = served[0].weights_from
        raise UserError(
            f"DiffusionKit cannot use one of {names} of {where} ({shorten(error)}); get them again"
        ) from error


def choose_source(release: Release, weights_from: str | None) -> str:
    """Source of the weights. Raises UserError for the repository of another model."""
    if weights_from in TITLES and weights_from != release.repo:
        raise UserError(
            f"weights_from: {weights_from} has {TITLES[weights_from]}; for {TITLES[release.repo]} set it to"
            f" {release.repo}, or leave it out"
        )
    return weights_from or release.repo


def list_files(release: Release, use_t5: bool) -> list[WeightFile]:
    """Every file of a model, without duplicates."""
    own = dict.fromkeys([release.transformer, release.autoencoder])
    return [*own, *list_text_files(use_t5, release.clip_models)]


def shorten(error: Exception, limit: int = 160) -> str:
    """First line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:limit]


MODELS = {name: partial(ReleasedModel, release) for name, release in RELEASES.items()}


def fetch_files(name: str, weights_from: str | None, use_t5: bool) -> dict[WeightFile, Located]:
    """Locate every file of the model `name`; check its tensors' dtypes, names and shapes.

    Files missing from the Hub's cache are downloaded, unless `weights_from` is None. Raises UserError, naming the
    command to run, for a file that is unavailable or incorrect.
    """
    release, source = RELEASES[name], choose_source(RELEASES[name], weights_from)
    files = list_files(release, use_t5)
    if weights_from and not is_folder(weights_from):  # download only from a repository that is named explicitly
        download_files([file for file in files if find_file(source, file) is None])
    located = locate_files(source, files)
    loaders.check_weights(release, located)
    return located
