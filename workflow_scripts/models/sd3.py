"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206) and FLUX.1-schnell, from their files.

Read by DiffusionKit's own loaders.

Half precision on a GPU, single on a CPU, where products in half precision are some hundred times slower.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from workflow_scripts.models.diffusionkit import load_model_io, mmdit, vae
from workflow_scripts.models.hub_download import download_files
from workflow_scripts.models.hub_view import serve_files
from workflow_scripts.models.latent_format import decode_pictures
from workflow_scripts.models.releases import RELEASES, Release
from workflow_scripts.models.sd3_text import TextEncoder, describe_dropped
from workflow_scripts.models.weight_files import (
    TITLES,
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
from workflow_scripts.store.room import check_memory

model_io = load_model_io()

PIXELS = 8  # of a picture's edge to one of the latent's
LATENT_CHANNELS = 16
EDGE, LARGEST_EDGE = 16, 1536  # pixels: a patch of the latent, and the table of positions
DECODE_PIXELS = 512 * 512  # decoded at a time, to bound memory


class ReleasedModel:
    """A model at one size of picture; nothing is loaded before it is asked for."""

    def __init__(
        self,
        release: Release,
        weights_from: str | None,
        use_t5: bool,
        height: int,
        width: int,
        dtype: mx.Dtype | None = None,
    ):
        """`weights_from` None is the model's repository on the Hub.

        Raises UserError for another model's, and for a size that is not whole patches of the latent, or beyond the
        table of positions.
        """
        for side in (height, width):
            if side % EDGE or not EDGE <= side <= LARGEST_EDGE:
                raise UserError(f"{height} x {width} pixels: a side is a multiple of {EDGE}, at most {LARGEST_EDGE}")
        self.release, self.weights_from, self.use_t5 = release, choose_source(release, weights_from), use_t5
        self.dtype = dtype or (release.half if mx.default_device().type == mx.gpu else mx.float32)
        self.compute_sigmas, self.process_out = release.compute_sigmas, release.latents.process_out
        self.PICTURE_SHAPE = (height, width)
        self.LATENT_SHAPE = (height // PIXELS, width // PIXELS, LATENT_CHANNELS)

    def list_files(self) -> list[WeightFile]:
        """Every file the pictures depend on."""
        return list_files(self.release, self.use_t5)

    def file_digests(self) -> dict[str, str]:
        """sha256 of each of them, by its name in a local folder. Raises UserError if one is missing."""
        places = locate_files(self.weights_from, self.list_files())
        return {file.local_name: digest_file(place) for file, place in places.items()}

    def load_transformer(self) -> mmdit.MMDiT:
        """The MMDiT; its weights are read where they are used."""
        load = load_mmdit if self.release.guided else load_flux
        with self._serve([self.release.transformer]):
            transformer = load(self.release, self.dtype)
        transformer.eval()
        return transformer

    def load_decoder(self) -> vae.VAEDecoder:
        """The decoder of the autoencoder."""
        with self._serve([self.release.autoencoder]):
            decoder = model_io.load_vae_decoder(key=self.release.repo, float16=self._float16)
        decoder.eval()
        return decoder

    def decode_latents(self, decoder: vae.VAEDecoder, latents: mx.array) -> np.ndarray:
        """Pictures (n, H, W, 3) uint8 of final latents (n, H / 8, W / 8, 16) in the sampler's space."""
        return self.decode_processed(decoder, self.process_out(latents.astype(mx.float32)))

    def decode_processed(self, decoder: vae.VAEDecoder, latents: mx.array) -> np.ndarray:
        """Pictures (n, H, W, 3) uint8 of latents (n, H / 8, W / 8, 16) that `process_out` gave."""
        height, width = self.PICTURE_SHAPE
        return decode_pictures(decoder, latents, self.dtype, max(1, DECODE_PIXELS // (height * width)))

    def encode_prompts(self, prompts: list[str], negative_prompt: str = "") -> tuple[mx.array, mx.array]:
        """Text embeddings of each prompt's C conditions: of tokens (n, C, T, 4096) and pooled (n, C, W), fp32.

        Index 0 is the prompt and index 1 the negative prompt; C is 1 without guidance. T and W are as `TextEncoder` has
        them.
        """
        encodings = self.iterate_encodings(prompts, negative_prompt)
        cs, cs_pooled = map(np.stack, zip(*encodings, strict=True))
        return mx.array(cs), mx.array(cs_pooled)

    def iterate_encodings(
        self, prompts: Sequence[str], negative_prompt: str, scratch: Path | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What `encode_prompts` gives, prompt by prompt, in memory that does not grow with them.

        A file in the folder `scratch` holds what waits, for some hundred prompts and more.
        """
        files = list_text_files(self.use_t5, self.release.clip_models)
        self.check_encoding_memory(files)
        shared = [negative_prompt] if self.release.guided else []
        with self._serve(files):
            encoder = TextEncoder(self.release, [*shared, *prompts], self.use_t5, self._float16, scratch)
        encodings = iter(encoder)
        negatives = [next(encodings) for _ in shared]
        for positive in encodings:
            yield tuple(np.stack(parts) for parts in zip(positive, *negatives, strict=True))
        mx.clear_cache()

    def describe_dropped(self, texts: Sequence[str]) -> list[str]:
        """Phrases that say with counts what of the texts the text encoders do not read; none if they read everything.

        Raises UserError for a character CLIP does not know.
        """
        with self._serve(list_text_files(self.use_t5, self.release.clip_models)):
            return describe_dropped(self.release, texts, self.use_t5)

    def check_encoding_memory(self, files: Iterable[WeightFile]) -> None:
        """Raise UserError if this machine has not the memory for the largest text encoder, whose files are in fp16."""
        largest = max(place.stat().st_size for place in locate_files(self.weights_from, files).values())
        advice = "leave T5 out (use_t5: false), or take a machine with more" if self.use_t5 else "take another machine"
        check_memory(largest * self.dtype.size // mx.float16.size, "the largest text encoder", advice)

    @property
    def _float16(self) -> bool:
        return self.dtype != mx.float32

    @contextmanager
    def _serve(self, files: Iterable[WeightFile]) -> Iterator[dict[WeightFile, Path]]:
        """Let DiffusionKit load these files. Raises UserError if they are missing, damaged or of another model."""
        places = locate_files(self.weights_from, files)
        for file, place in places.items():
            check_file(file, place)
        model_io._FLOAT16 = self.release.half  # as the model's pipeline sets it
        try:
            with serve_files(places):
                yield
        except (ValueError, KeyError) as error:
            names = ", ".join(file.name for file in places if file.name.endswith(".safetensors"))
            raise UserError(
                f"DiffusionKit cannot use {names} of {self.weights_from} ({shorten(error)});\n"
                f"  another checkpoint? the right one: hf download {self.release.repo} {self.release.transformer.name}"
            ) from error


def choose_source(release: Release, weights_from: str | None) -> str:
    """Where the weights come from. Raises UserError for the repository of another model."""
    if weights_from in TITLES and weights_from != release.repo:
        raise UserError(
            f"weights_from: {weights_from} has {TITLES[weights_from]}; for {TITLES[release.repo]} set it to"
            f" {release.repo}, or leave it out"
        )
    return weights_from or release.repo


def list_files(release: Release, use_t5: bool) -> list[WeightFile]:
    """Every file of a model, each once."""
    own = dict.fromkeys([release.transformer, release.autoencoder])
    return [*own, *list_text_files(use_t5, release.clip_models)]


def load_mmdit(release: Release, dtype: mx.Dtype) -> mmdit.MMDiT:
    """The transformer of Stable Diffusion 3 or 3.5."""
    half = dtype != mx.float32
    return model_io.load_mmdit(key=release.repo, model_key=release.repo, float16=half, low_memory_mode=False)


def load_flux(release: Release, dtype: mx.Dtype) -> mmdit.MMDiT:
    """FLUX's transformer. Raises ValueError unless its file is complete.

    DiffusionKit's `load_flux` with another end: its own takes a file that lacks something, and with this MLX refuses
    every one for the biases of keys, for which DiffusionKit's transformer has no room.
    """
    config = replace(model_io.FLUX_SCHNELL, low_memory_mode=False)
    weights = model_io.flux_state_dict_adjustments(
        mx.load(model_io.hf_hub_download(release.repo, release.transformer.name)),
        hidden_size=config.hidden_size,
        mlp_ratio=config.mlp_ratio,
    )
    known = {name: value.astype(dtype) for name, value in weights.items() if not name.endswith("k_proj.bias")}
    transformer = mmdit.MMDiT(config)
    transformer.load_weights(list(known.items()))
    return transformer


def shorten(error: Exception, limit: int = 160) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:limit]


MODELS = {name: partial(ReleasedModel, release) for name, release in RELEASES.items()}


def fetch_files(name: str, weights_from: str | None, use_t5: bool) -> dict[str, str]:
    """sha256 of every file of the model `name` by its own name, each checked to the last byte.

    Those the Hub's cache lacks are downloaded, unless `weights_from` is None. Raises UserError, naming the command that
    helps, for a file that cannot be had or is not what it should be.
    """
    files, source = list_files(RELEASES[name], use_t5), choose_source(RELEASES[name], weights_from)
    if weights_from and not is_folder(weights_from):  # nothing is downloaded unless it is asked for by name
        download_files([file for file in files if find_place(source, file) is None])
    places = locate_files(source, files)
    for file, place in places.items():
        check_file(file, place)
    return {file.local_name: verify_file(place) for file, place in places.items()}
