"""The sizes of the miniature, set in DiffusionKit's tables of sizes."""

from dataclasses import replace
from functools import partial

from taqmlx.models.diffusionkit import config, load_model_io

# By name, as what has these names is not to be imported before the sizes are the miniature's.
CHECKPOINT_REPO, LARGE_REPO = (f"argmaxinc/mlx-stable-diffusion-3{version}" for version in ("-medium", ".5-large"))
FLUX_REPO = "argmaxinc/mlx-FLUX.1-schnell"
WIDTH, LATENT_SIDE, CHANNELS = 64, 16, 16
POOLED = {"clip_l": 24, "clip_g": 40}
POOLED_WIDTH = sum(POOLED.values())
AUTOENCODER = {"block_out_channels": (8, 16, 32, 32), "resnet_groups": 4}
T5 = {
    "model_type": "t5",
    "architectures": ["T5EncoderModel"],
    "d_model": 4096,  # DiffusionKit joins it with CLIP's embeddings, filled up to this width
    "d_kv": 8,
    "num_heads": 2,
    "d_ff": 32,
    "num_layers": 2,
    "vocab_size": 256,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def describe_clip(name, vocabulary):
    """The `config.json` of a CLIP model."""
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_act": {"clip_l": "quick_gelu", "clip_g": "gelu"}[name],
        "hidden_size": POOLED[name],
        "max_position_embeddings": 77,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "projection_dim": POOLED[name],
        "vocab_size": vocabulary,
    }


_SMALL = {"num_heads": 2, "hidden_size_override": WIDTH}
SD3 = _SMALL | {"max_latent_resolution": LATENT_SIDE, "pooled_text_embed_dim": POOLED_WIDTH}
_FLUX = _SMALL | {"rope_axes_dim": (8, 12, 12), "pooled_text_embed_dim": POOLED["clip_l"]}
# DiffusionKit's sizes of each transformer, with as many blocks as the real one, narrow.
TRANSFORMERS = {
    CHECKPOINT_REPO: replace(config.SD3_2b, **SD3),
    LARGE_REPO: replace(config.SD3_8b, **SD3),
    FLUX_REPO: replace(config.FLUX_SCHNELL, **_FLUX),
}


def shrink(monkeypatch):
    """Point DiffusionKit's tables of sizes at the miniature, until `monkeypatch` is undone."""
    model_io = load_model_io()
    for repo, sizes in TRANSFORMERS.items():
        monkeypatch.setitem(model_io._CONFIG, repo, sizes)
    monkeypatch.setattr(model_io, "FLUX_SCHNELL", TRANSFORMERS[FLUX_REPO])
    for name in ("VAEDecoderConfig", "VAEEncoderConfig"):
        monkeypatch.setattr(model_io, name, partial(getattr(config, name), **AUTOENCODER))
