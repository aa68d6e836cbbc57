"""Embedded model: a trained miniature of Stable Diffusion 3, built from DiffusionKit's own classes.

Its files are in `embedded_model/` beside this module: fp16 weights, loaded as fp32, and `config.json` with the
dimensions and the vocabulary. `embedded_model/MODEL_CARD.md` describes its training and its abilities.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from taqmlx.models.diffusionkit import clip, config, mmdit, vae
from taqmlx.models.latent_format import SD3_LATENTS, SD3_SCALE, SD3_SHIFT, decode_pictures
from taqmlx.models.tokenizer import Tokenizer
from taqmlx.numerics import schedule
from taqmlx.planning.documents import Config
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_plain_json
from taqmlx.store.safetensors_header import WEIGHT_TYPES, find_coded, read_header

FOLDER = Path(__file__).parent / "embedded_model"
CONFIG = read_plain_json(FOLDER / "config.json")
AUTOENCODER, TEXT_ENCODER, TRANSFORMER = (CONFIG[key] for key in ("autoencoder", "text_encoder", "transformer"))

PICTURE_SIZE = 64  # pixels
PICTURE_SHAPE = (PICTURE_SIZE, PICTURE_SIZE)
LATENT_SHAPE = (8, 8, AUTOENCODER["latent_channels"])
SAMPLER_SHIFT = 3.0
compute_sigmas = partial(schedule.compute_sigmas, shift=SAMPLER_SHIFT)
process_out = SD3_LATENTS.process_out
WEIGHT_FILES = ("transformer.safetensors", "text_encoder.safetensors", "autoencoder.safetensors")
DECODE_BATCH = 64  # pictures decoded at a time, to bound memory
ENCODE_BATCH = 256  # prompts encoded at a time, for the same reason


def read_weights(path: Path, prefix: str = "") -> list[tuple[str, mx.array]]:
    """Read the weights of one file whose names start with `prefix`, in fp32, with the prefix removed.

    Raises UserError if the file is absent or, naming the tensor, if a weight has an unsupported dtype or is not finite.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; restore it, or train it: snakemake --cores 2 train_embedded_model")
    coded = find_coded(read_header(path))
    if name := next(iter(coded), None):
        raise UserError(
            f"{path}: {name} is stored as {coded[name]}, and {', '.join(WEIGHT_TYPES)} are read; restore it"
        )
    weights = {key: value for key, value in mx.load(str(path)).items() if key.startswith(prefix)}
    flags = {key: mx.isfinite(value).all() for key, value in weights.items()}
    mx.eval(flags)
    if broken := next((key for key, flag in flags.items() if not flag.item()), None):
        raise UserError(f"{path}: {broken} has values that are not finite; restore the file")
    return [(key.removeprefix(prefix), value.astype(mx.float32)) for key, value in weights.items()]


def fill_module(module: nn.Module, weights: list[tuple[str, mx.array]]) -> nn.Module:
    """Load exactly these weights into `module` and evaluate them; a missing or surplus name raises ValueError."""
    module.load_weights(weights, strict=True)
    module.eval()
    mx.eval(module.parameters())
    return module


def load_transformer(dtype: mx.Dtype = mx.float32, folder: Path = FOLDER) -> mmdit.MMDiT:
    """Load the MMDiT with its weights in `dtype`."""
    sizes = config.MMDiTConfig(**TRANSFORMER, dtype=dtype, float16_dtype=dtype, low_memory_mode=False)
    weights = [(name, value.astype(dtype)) for name, value in read_weights(folder / "transformer.safetensors")]
    return fill_module(mmdit.MMDiT(sizes), weights)


def load_text_encoder(folder: Path = FOLDER) -> clip.CLIPTextModel:
    """Load the text encoder, fp32."""
    sizes = config.CLIPTextModelConfig(**TEXT_ENCODER, vocab_size=len(load_tokenizer()), hidden_act="quick_gelu")
    return fill_module(clip.CLIPTextModel(sizes), read_weights(folder / "text_encoder.safetensors"))


def load_tokenizer() -> Tokenizer:
    """Return the word tokenizer of the vocabulary in `config.json`."""
    return Tokenizer(CONFIG["words"], TEXT_ENCODER["max_length"])


def encode_prompts(prompts: list[str], negative_prompt: str = "", folder: Path = FOLDER) -> tuple[mx.array, mx.array]:
    """Token-level and pooled text embeddings of each prompt and its negative, in Stable Diffusion 3's order.

    Returns `cs` (prompts, 2, tokens, width) and `cs_pooled` (prompts, 2, width), fp32; index 0 is the prompt and index
    1 the negative prompt. Any string is a valid prompt.
    """
    tokens = mx.array(load_tokenizer().encode([*prompts, negative_prompt]))
    encode, encoded = load_text_encoder(folder), []
    for start in range(0, len(tokens), ENCODE_BATCH):
        output = encode(tokens[start : start + ENCODE_BATCH])
        encoded.append((output.last_hidden_state, output.pooled_output))
        mx.eval(encoded[-1])

    def pair(rows: mx.array) -> mx.array:
        positive, negative = rows[:-1], rows[-1:]
        return mx.stack([positive, mx.broadcast_to(negative, positive.shape)], axis=1)

    cs, cs_pooled = (pair(mx.concatenate(parts)) for parts in zip(*encoded, strict=True))
    mx.eval(cs, cs_pooled)
    return cs, cs_pooled


def iterate_encodings(
    prompts: Sequence[str], negative_prompt: str, scratch: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Iterate over the encodings of `encode_prompts` by prompt, in constant memory. `scratch` is not used."""
    for start in range(0, len(prompts), ENCODE_BATCH):
        encodings = encode_prompts(list(prompts[start : start + ENCODE_BATCH]), negative_prompt)
        yield from zip(*map(np.array, encodings), strict=True)


def describe_dropped(texts: Sequence[str]) -> list[str]:
    """Phrases, with counts, that describe the parts of the texts dropped by the text encoder; empty if none."""
    return load_tokenizer().describe_dropped(list(texts))


def _autoencoder_sizes() -> Config:
    return {key: AUTOENCODER[key] for key in ("block_out_channels", "layers_per_block", "resnet_groups")}


def load_decoder(folder: Path = FOLDER) -> vae.VAEDecoder:
    """Load the decoder of the autoencoder, fp32."""
    decoder = vae.VAEDecoder(AUTOENCODER["latent_channels"], 3, **_autoencoder_sizes())
    return fill_module(decoder, read_weights(folder / "autoencoder.safetensors", "decoder."))


def load_encoder(folder: Path = FOLDER) -> vae.VAEEncoder:
    """Load the encoder, fp32: pictures (n, 64, 64, 3) in [-1, 1] to means and log-variances (n, 8, 8, 32)."""
    encoder = vae.VAEEncoder(3, 2 * AUTOENCODER["latent_channels"], **_autoencoder_sizes())
    return fill_module(encoder, read_weights(folder / "autoencoder.safetensors", "encoder."))


def decode_latents(decoder: vae.VAEDecoder, latents: mx.array) -> np.ndarray:
    """Decode final latents (n, 8, 8, 16) in the sampler's space to pictures (n, 64, 64, 3) uint8."""
    return decode_processed(decoder, process_out(latents.astype(mx.float32)))


def decode_processed(decoder: vae.VAEDecoder, latents: mx.array) -> np.ndarray:
    """Decode latents (n, 8, 8, 16), the output of `process_out`, to pictures (n, 64, 64, 3) uint8."""
    return decode_pictures(decoder, latents, mx.float32, DECODE_BATCH)


def encode_pictures(encoder: vae.VAEEncoder, pictures: np.ndarray) -> mx.array:
    """Encode pictures (n, 64, 64, 3) uint8 to latents (n, 8, 8, 16) fp32 in the sampler's space (posterior means)."""
    mean = encoder(mx.array(pictures).astype(mx.float32) / 127.5 - 1)[..., : AUTOENCODER["latent_channels"]]
    return (mean - SD3_SHIFT) * SD3_SCALE


def file_digests() -> dict[str, str]:
    """sha256 of each weight file the pictures depend on, by file name."""
    return {name: hash_file(FOLDER / name) for name in WEIGHT_FILES}
