"""The miniature's sizes, and DiffusionKit's tables of sizes pointed at them."""

from functools import partial

import mlx.core as mx

from workflow_scripts.models.diffusionkit import config, load_model_io

WIDTH, BLOCKS, LATENT_SIDE, CHANNELS = 64, 24, 16, 16
POOLED = {"clip_l": 24, "clip_g": 40}
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


def shrink(monkeypatch):
    """Point DiffusionKit's tables of sizes at the miniature, until `monkeypatch` is undone."""
    model_io = load_model_io()
    sizes = config.MMDiTConfig(
        num_heads=2,
        depth_multimodal=BLOCKS,
        hidden_size_override=WIDTH,
        max_latent_resolution=LATENT_SIDE,
        pooled_text_embed_dim=sum(POOLED.values()),
        float16_dtype=mx.float16,
        dtype=mx.float16,
    )
    monkeypatch.setitem(model_io._CONFIG, model_io._DEFAULT_MMDIT, sizes)
    for name in ("VAEDecoderConfig", "VAEEncoderConfig"):
        monkeypatch.setattr(model_io, name, partial(getattr(config, name), **AUTOENCODER))
