"""What a prompt is to Stable Diffusion 3: two CLIP models and a T5 encoder, each loaded, used and let go.

DiffusionKit's models over DiffusionKit's tokens, joined as its `DiffusionPipeline.encode_text` joins them.
"""

from collections.abc import Iterable

import mlx.core as mx

from workflow_scripts.models.diffusionkit import load_model_io
from workflow_scripts.models.weight_files import CHECKPOINT_REPO
from workflow_scripts.store.errors import UserError

model_io = load_model_io()

WIDTH = 4096  # of a token's embedding: T5's; CLIP's is filled up with zeros
T5_TOKENS = {CHECKPOINT_REPO: 512}
# model: whether its tokens are filled up with the end token (else with 0)
CLIP_MODELS = {"clip_l": True, "clip_g": False}


def tokenize(tokenizer: object, text: str) -> mx.array:
    """Token ids (1, max_length) int, filled up. Raises UserError for a character the vocabulary has not."""
    try:
        tokens = tokenizer.tokenize(text)
    except KeyError as error:
        raise UserError(f"the prompt {text!r} has {error}, which CLIP's vocabulary has not; leave it out") from None
    filler = tokenizer.eos_token if tokenizer.pad_with_eos else 0
    return mx.array([tokens + [filler] * (tokenizer.max_length - len(tokens))])


def encode_clip(name: str, texts: Iterable[str], float16: bool) -> tuple[mx.array, mx.array]:
    """The embeddings by one CLIP model: of tokens (n, 77, d), from its last layer but one, and pooled (n, p)."""
    model = model_io.load_text_encoder(model_io._DEFAULT_MODEL, float16=float16, model_key=name)
    tokenizer = model_io.load_tokenizer(
        model_io._DEFAULT_MODEL,
        merges_key=f"tokenizer_{name[-1]}_merges",
        vocab_key=f"tokenizer_{name[-1]}_vocab",
        pad_with_eos=CLIP_MODELS[name],
    )
    by_token, pooled = [], []
    for text in texts:
        output = model(tokenize(tokenizer, text))
        by_token.append(output.hidden_states[-2])
        pooled.append(output.pooled_output)
        mx.eval(by_token[-1], pooled[-1])
    return mx.concatenate(by_token), mx.concatenate(pooled)


def encode_t5(texts: Iterable[str], float16: bool) -> mx.array:
    """The embeddings (n, 512, 4096) by T5."""
    model = model_io.load_t5_encoder(float16=float16, low_memory_mode=False)
    tokenizer = model_io.load_t5_tokenizer(max_context_length=T5_TOKENS[CHECKPOINT_REPO])
    encoded = []
    for text in texts:
        encoded.append(model(tokenize(tokenizer, text)))
        mx.eval(encoded[-1])
    return mx.concatenate(encoded)


def encode_texts(texts: list[str], use_t5: bool, float16: bool) -> tuple[mx.array, mx.array]:
    """Embeddings of n texts fp32: of tokens (n, 77 + 512, 4096) and pooled (n, 2048).

    Without T5 its tokens are as many zeros as CLIP has tokens, (n, 77 + 77, 4096).
    """
    by_token, pooled = zip(*(encode_clip(name, texts, float16) for name in CLIP_MODELS), strict=True)
    joined = mx.concatenate(by_token, axis=-1).astype(mx.float32)
    joined = mx.pad(joined, [(0, 0), (0, 0), (0, WIDTH - joined.shape[-1])])
    second = encode_t5(texts, float16).astype(mx.float32) if use_t5 else mx.zeros_like(joined)
    cs, cs_pooled = mx.concatenate([joined, second], axis=1), mx.concatenate(pooled, axis=-1).astype(mx.float32)
    mx.eval(cs, cs_pooled)
    return cs, cs_pooled
