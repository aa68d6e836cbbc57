"""Stable Diffusion 3 Medium (Esser et al. 2024, arXiv 2403.03206), loaded by DiffusionKit's own loaders.

Half precision on a GPU, single on a CPU, where products in half precision are some hundred times slower.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np

from workflow_scripts.models.diffusionkit import load_model_io, mmdit, vae
from workflow_scripts.models.hub_download import download_files
from workflow_scripts.models.hub_view import serve_files
from workflow_scripts.models.latent_format import decode_pictures, process_out
from workflow_scripts.models.sd3_text import encode_texts
from workflow_scripts.models.weight_files import (
    CHECKPOINT,
    CHECKPOINT_REPO,
    WeightFile,
    check_file,
    digest_file,
    find_place,
    is_folder,
    list_text_files,
    locate_files,
    verify_file,
)
from workflow_scripts.store.errors import UserError

model_io = load_model_io()

PIXELS = 8  # of a picture's edge to one of the latent's
LATENT_CHANNELS = 16
EDGE, LARGEST_EDGE = 16, 1536  # pixels: a patch of the latent, and the table of positions
DECODE_PIXELS = 512 * 512  # decoded at a time, to bound memory


def choose_dtype() -> mx.Dtype:
    """Half precision on a GPU, single on a CPU."""
    return mx.float16 if mx.default_device().type == mx.gpu else mx.float32


class StableDiffusion3Medium:
    """The model at one size of picture; nothing is loaded before it is asked for."""

    SAMPLER_SHIFT = 3.0

    def __init__(self, weights_from: str, use_t5: bool, height: int, width: int, dtype: mx.Dtype | None = None):
        """Raises UserError for a size that is not whole patches of the latent, or beyond the table of positions."""
        for side in (height, width):
            if side % EDGE or not EDGE <= side <= LARGEST_EDGE:
                raise UserError(f"{height} x {width} pixels: a side is a multiple of {EDGE}, at most {LARGEST_EDGE}")
        self.weights_from, self.use_t5 = weights_from, use_t5
        self.dtype = dtype or choose_dtype()
        self.PICTURE_SHAPE = (height, width)
        self.LATENT_SHAPE = (height // PIXELS, width // PIXELS, LATENT_CHANNELS)

    def list_files(self) -> list[WeightFile]:
        """Every file the pictures depend on."""
        return [CHECKPOINT, *list_text_files(self.use_t5)]

    def file_digests(self) -> dict[str, str]:
        """sha256 of each of them, by its name in a local folder. Raises UserError if one is missing."""
        places = locate_files(self.weights_from, self.list_files())
        return {file.local_name: digest_file(place) for file, place in places.items()}

    def load_transformer(self) -> mmdit.MMDiT:
        """The MMDiT; its weights are read where they are used."""
        with self._serve([CHECKPOINT]):
            transformer = model_io.load_mmdit(
                key=CHECKPOINT_REPO, model_key=CHECKPOINT_REPO, float16=self._float16, low_memory_mode=False
            )
        transformer.eval()
        return transformer

    def load_decoder(self) -> vae.VAEDecoder:
        """The decoder of the autoencoder."""
        with self._serve([CHECKPOINT]):
            decoder = model_io.load_vae_decoder(key=CHECKPOINT_REPO, float16=self._float16)
        decoder.eval()
        return decoder

    def decode_latents(self, decoder: vae.VAEDecoder, latents: mx.array) -> np.ndarray:
        """Pictures (n, H, W, 3) uint8 of final latents (n, H / 8, W / 8, 16) in the sampler's space."""
        return self.decode_processed(decoder, process_out(latents.astype(mx.float32)))

    process_out = staticmethod(process_out)

    def decode_processed(self, decoder: vae.VAEDecoder, latents: mx.array) -> np.ndarray:
        """Pictures (n, H, W, 3) uint8 of latents (n, H / 8, W / 8, 16) that `process_out` gave."""
        height, width = self.PICTURE_SHAPE
        return decode_pictures(decoder, latents, self.dtype, max(1, DECODE_PIXELS // (height * width)))

    def encode_prompts(self, prompts: list[str], negative_prompt: str = "") -> tuple[mx.array, mx.array]:
        """Text embeddings of each prompt and its negative: of tokens (n, 2, T, 4096) and pooled (n, 2, 2048), fp32.

        T is 589, without T5 154. Index 0 is the prompt and index 1 the negative prompt; each text is encoded once.
        """
        texts = list(dict.fromkeys([*prompts, negative_prompt]))
        with self._serve(list_text_files(self.use_t5)):
            cs, cs_pooled = encode_texts(texts, self.use_t5, self._float16)
        mx.clear_cache()
        places = mx.array([[texts.index(prompt), texts.index(negative_prompt)] for prompt in prompts])
        return cs[places], cs_pooled[places]

    @property
    def _float16(self) -> bool:
        return self.dtype == mx.float16

    @contextmanager
    def _serve(self, files: Iterable[WeightFile]) -> Iterator[dict[WeightFile, Path]]:
        """Let DiffusionKit load these files. Raises UserError if they are missing, damaged or of another model."""
        places = locate_files(self.weights_from, files)
        for file, place in places.items():
            check_file(file, place)
        model_io._FLOAT16 = mx.float16  # as DiffusionPipeline sets it for this model
        try:
            with serve_files(places):
                yield
        except (ValueError, KeyError) as error:
            names = ", ".join(file.name for file in places if file.name.endswith(".safetensors"))
            raise UserError(
                f"DiffusionKit cannot use {names} of {self.weights_from} ({shorten(error)});\n"
                f"  another checkpoint? the right one: hf download {CHECKPOINT_REPO} {CHECKPOINT.name}"
            ) from error


def shorten(error: Exception, limit: int = 160) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:limit]


create = StableDiffusion3Medium


def fetch_files(weights_from: str, use_t5: bool) -> dict[str, str]:
    """sha256 of every file by its name, each checked to the last byte; those the Hub's cache lacks are downloaded.

    Raises UserError, naming the command that helps, for a file that cannot be had or is not what it should be.
    """
    files = [CHECKPOINT, *list_text_files(use_t5)]
    if not is_folder(weights_from):
        download_files([file for file in files if find_place(weights_from, file) is None])
    places = locate_files(weights_from, files)
    for file, place in places.items():
        check_file(file, place)
    return {file.local_name: verify_file(place) for file, place in places.items()}
