"""Text encoding for Stable Diffusion 3 and FLUX: CLIP models and a T5 encoder, loaded and released one after another.

The models and tokenizers are DiffusionKit's; the embeddings are joined as in `encode_text` of its pipelines.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import mlx.core as mx
import numpy as np

from taqmlx.models.diffusionkit import load_model_io
from taqmlx.models.loaders import T5_FILE, Files, load_clip, load_t5
from taqmlx.models.releases import Release
from taqmlx.models.tokenizer import describe_cut
from taqmlx.store.errors import UserError

model_io = load_model_io()
# It warns about every truncated text; `describe_dropped` reports them once.
logging.getLogger("diffusionkit.mlx.tokenizer").setLevel(logging.ERROR)

WIDTH = 4096  # width of T5's token embeddings; CLIP's are padded with zeros
CLIP_TOKENS = 77
UNLIMITED = 1 << 30  # tokens
SPILLED_FROM = 1 << 26  # bytes of CLIP embeddings of all texts kept in memory
# model: True to pad tokens with the end token (else with 0)
CLIP_MODELS = {"clip_l": True, "clip_g": False}


def list_tokens(tokenizer: Any, text: str) -> list[int]:
    """Token ids with start and end, cut at `max_length`. Raises UserError for a character CLIP's vocabulary lacks."""
    try:
        return tokenizer.tokenize(text)
    except KeyError as error:
        raise UserError(f"the prompt {text!r} has {error}, which CLIP's vocabulary lacks; remove it") from None


def tokenize(tokenizer: Any, text: str) -> mx.array:
    """Token ids (1, max_length) int, padded. Raises UserError as `list_tokens`."""
    tokens = list_tokens(tokenizer, text)
    filler = tokenizer.eos_token if tokenizer.pad_with_eos else 0
    return mx.array([tokens + [filler] * (tokenizer.max_length - len(tokens))])


def load_clip_tokenizer(name: str) -> Any:
    """Load DiffusionKit's tokenizer of one CLIP model."""
    return model_io.load_tokenizer(
        model_io._DEFAULT_MODEL,
        merges_key=f"tokenizer_{name[-1]}_merges",
        vocab_key=f"tokenizer_{name[-1]}_vocab",
        pad_with_eos=CLIP_MODELS[name],
    )


def describe_dropped(release: Release, texts: Sequence[str], use_t5: bool) -> list[str]:
    """Phrases, with counts, that describe the parts of the texts dropped by an encoder; empty if there are none.

    Raises UserError as `list_tokens`.
    """
    clip = load_clip_tokenizer(release.clip_models[0])  # all CLIP models share one vocabulary
    clip.max_length = UNLIMITED
    phrases = describe_cut([len(list_tokens(clip, text)) for text in texts], CLIP_TOKENS, "tokens of CLIP")
    if use_t5:
        t5 = model_io.load_t5_tokenizer(max_context_length=UNLIMITED)
        found = [list_tokens(t5, text) for text in texts]
        phrases += describe_cut([len(tokens) for tokens in found], release.t5_tokens, "tokens of T5")
        if count := sum(t5._tokenizer.unk_token_id in tokens for tokens in found):
            phrases.append(f"characters that T5 does not know in {count} of {len(texts)} prompts")
    return phrases


def encode_clip(name: str, texts: Iterable[str], files: Files, dtype: mx.Dtype) -> Iterator[tuple[mx.array, mx.array]]:
    """Iterate over a CLIP model's embeddings of each text: tokens (77, d) of the penultimate layer, and pooled (p,)."""
    model = load_clip(name, files, dtype)
    tokenizer = load_clip_tokenizer(name)
    for text in texts:
        output = model(tokenize(tokenizer, text))
        yield output.hidden_states[-2][0], output.pooled_output[0]


def bind_t5(tokens: int, files: Files, dtype: mx.Dtype) -> Callable[[str], mx.array]:
    """Return a function that gives a text's T5 embedding (tokens, 4096)."""
    model = load_t5(files, dtype)
    tokenizer = model_io.load_t5_tokenizer(max_context_length=tokens)
    return lambda text: model(tokenize(tokenizer, text))[0]


def give_zeros(text: str) -> mx.array:
    """Replacement for T5's embedding if T5 is not used: zeros (77, 4096), one per CLIP token."""
    return mx.zeros((CLIP_TOKENS, WIDTH))


def convert(part: mx.array) -> np.ndarray:
    """Convert an embedding to float32."""
    return np.array(part.astype(mx.float32))


class TextEncoder:
    """Iterable over the embeddings of given texts; the CLIP models are released before T5 is loaded.

    CLIP embeddings of the texts are kept in a temporary file in `scratch` while T5 runs, or in memory if they are
    small. The Hub's client must find the tokenizers' files.
    """

    def __init__(
        self, release: Release, texts: Sequence[str], files: Files, dtype: mx.Dtype, scratch: Path | None = None
    ):
        self.release, self.texts, self.spills = release, texts, []
        for name in release.clip_models:
            spill = SpooledTemporaryFile(max_size=SPILLED_FROM, dir=scratch)  # noqa: SIM115  goes with its encoder
            for parts in encode_clip(name, texts, files, dtype):
                shapes = [part.shape for part in parts]
                for part in parts:
                    spill.write(convert(part).data)
            spill.seek(0)
            self.spills.append((spill, shapes))
            mx.clear_cache()
        self.encode_rest = bind_t5(release.t5_tokens, files, dtype) if T5_FILE in files else give_zeros

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over the float32 embeddings of each text: token-level (T, 4096) and pooled (W,).

        Stable Diffusion 3: T is 77 + 512, CLIP's tokens and T5's, W is 2048; without T5 its tokens are replaced by as
        many zeros as CLIP has tokens, 77 + 77. FLUX: T is 256, T5's tokens only, W is 768.
        """
        for text in self.texts:
            clip, pooled = zip(*(read_arrays(*spill) for spill in self.spills), strict=True)
            rest = convert(self.encode_rest(text))
            yield join_tokens(clip, rest) if self.release.clip_tokens else rest, np.concatenate(pooled)


def join_tokens(clip: Sequence[np.ndarray], rest: np.ndarray) -> np.ndarray:
    """Concatenate CLIP's embeddings (77, d) by channel, pad to (77, 4096), append T5's (t, 4096): (77 + t, 4096)."""
    beside = np.concatenate(clip, axis=-1)
    joined = np.zeros((CLIP_TOKENS + len(rest), WIDTH), np.float32)
    joined[:CLIP_TOKENS, : beside.shape[-1]], joined[CLIP_TOKENS:] = beside, rest
    return joined


def read_arrays(file: IO[bytes], shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Read the next float32 arrays of these shapes."""
    return [np.frombuffer(file.read(4 * math.prod(shape)), np.float32).reshape(shape) for shape in shapes]
