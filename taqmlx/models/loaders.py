"""DiffusionKit's modules, loaded with checkpoint weights under DiffusionKit's names.

DiffusionKit's own loaders silently accept a file with a missing or mistyped text encoder tensor.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from taqmlx.models.checkpoints import Tensors, fill_module, read_headers, read_tensors, reject_damage
from taqmlx.models.diffusionkit import clip, config, load_model_io, mmdit, vae
from taqmlx.models.releases import Release
from taqmlx.models.weight_files import T5_REPO, TEXT_NAMES, TEXT_REPO, Located, WeightFile
from taqmlx.planning.plain_files import read_plain_json

model_io = load_model_io()

TRANSFORMER_PREFIX = "model.diffusion_model."  # in a file that also has other parts
KEY_BIAS = ".k_proj.bias"
TEXT_PREFIX = "text_encoders."
T5_FILE, T5_CONFIG = WeightFile(TEXT_REPO, TEXT_NAMES["t5"]), WeightFile(T5_REPO, "config.json")
SHARED, EMBEDDED = "shared.weight", "encoder.embed_tokens.weight"  # T5's token table, stored once or twice
# Tensors of published text encoders that are not used for inference.
CLIP_UNREAD, T5_UNREAD = r"position_ids$|^logit_scale$", r"^decoder\.|^lm_head\."

Files = Mapping[WeightFile, Located]


def load_transformer(release: Release, files: Files, dtype: mx.Dtype) -> mmdit.MMDiT:
    """Load the MMDiT. Raises UserError for a file of another model."""
    sizes = replace(model_io._CONFIG[release.repo], low_memory_mode=False)
    located = files[release.transformer]
    if release.guided:
        tensors = read_tensors(located, TRANSFORMER_PREFIX)
        adjust = partial(model_io.mmdit_state_dict_adjustments, prefix=TRANSFORMER_PREFIX)
    else:
        tensors = read_flux_tensors(located)
        adjust = partial(adjust_flux, hidden_size=sizes.hidden_size, mlp_ratio=sizes.mlp_ratio)
    return fill_module(mmdit.MMDiT(sizes), located, tensors, adjust, dtype)


def read_flux_tensors(located: Located) -> Tensors:
    """Tensors of FLUX's transformer by published name, from a file that may have other parts too."""
    has_more = any(name.startswith(TRANSFORMER_PREFIX) for name in read_headers(located))
    found = read_tensors(located, TRANSFORMER_PREFIX if has_more else "")
    return {name.removeprefix(TRANSFORMER_PREFIX): value for name, value in found.items()}


def adjust_flux(tensors: Tensors, **sizes: int) -> Tensors:
    """Rename FLUX's tensors to DiffusionKit's names, dropping key biases, which its transformer does not have."""
    weights = model_io.flux_state_dict_adjustments(tensors, **sizes)
    return {name: value for name, value in weights.items() if not name.endswith(KEY_BIAS)}


def load_key_biases(release: Release, files: Files) -> Tensors:
    """Biases (out,) of FLUX's key projections, which DiffusionKit's transformer does not have, by module path."""
    sizes = model_io._CONFIG[release.repo]
    weights = model_io.flux_state_dict_adjustments(
        read_flux_tensors(files[release.transformer]), hidden_size=sizes.hidden_size, mlp_ratio=sizes.mlp_ratio
    )
    return {name.removesuffix(".bias"): value for name, value in weights.items() if name.endswith(KEY_BIAS)}


def load_decoder(release: Release, files: Files, dtype: mx.Dtype) -> vae.VAEDecoder:
    """Load the decoder of the autoencoder. Raises UserError for a file of another model."""
    sizes, prefix = model_io.VAEDecoderConfig(), model_io._PREFIX[release.repo]["vae_decoder"]
    named = "in_channels", "out_channels", "block_out_channels", "layers_per_block", "resnet_groups"
    decoder = vae.VAEDecoder(**{name: getattr(sizes, name) for name in named})
    located = files[release.autoencoder]
    adjust = partial(model_io.vae_decoder_state_dict_adjustments, prefix=prefix)
    return fill_module(decoder, located, read_tensors(located, prefix), adjust, dtype)


def load_clip(name: str, files: Files, dtype: mx.Dtype) -> clip.CLIPTextModel:
    """Load the CLIP model `name`, clip_l or clip_g. Raises UserError for a file of another model."""
    described = files[WeightFile(TEXT_REPO, TEXT_NAMES[f"{name}_config"])]
    with reject_damage(described):
        about = read_plain_json(described.place)
        sizes = config.CLIPTextModelConfig(
            num_layers=about["num_hidden_layers"],
            model_dims=about["hidden_size"],
            num_heads=about["num_attention_heads"],
            max_length=about["max_position_embeddings"],
            vocab_size=about["vocab_size"],
            projection_dim=about["projection_dim"] if "WithProjection" in about["architectures"][0] else None,
            hidden_act=about.get("hidden_act", "quick_gelu"),
        )
        model = clip.CLIPTextModel(sizes)
    located = files[WeightFile(TEXT_REPO, TEXT_NAMES[name])]
    return fill_module(model, located, read_tensors(located, unread=CLIP_UNREAD), adjust_clip, dtype)


def adjust_clip(tensors: Tensors) -> Tensors:
    """Rename a CLIP model's tensors to DiffusionKit's names."""
    return dict(pair for item in tensors.items() for pair in model_io.map_clip_text_encoder_weights(*item))


def load_t5(files: Files, dtype: mx.Dtype) -> nn.Module:
    """Load the T5 encoder. Raises UserError for a file of another model."""
    with reject_damage(files[T5_CONFIG]):
        sizes = model_io.T5Config.from_dict(read_plain_json(files[T5_CONFIG].place))
        model = model_io.SD3T5Encoder(sizes, low_memory_mode=False)
    located = files[T5_FILE]
    return fill_module(model, located, read_tensors(located, unread=T5_UNREAD), adjust_t5, dtype)


def adjust_t5(tensors: Tensors) -> Tensors:
    """Rename T5's tensors to DiffusionKit's names; its token table may be stored under either name, or both."""
    table = {name: tensors[name] for name in (SHARED, EMBEDDED) if name in tensors}
    both = {SHARED: table.get(SHARED, table.get(EMBEDDED)), EMBEDDED: table.get(EMBEDDED, table.get(SHARED))}
    return model_io.t5_encoder_state_dict_adjustments(tensors | (both if table else {}), prefix="")


def describe_unread(release: Release, files: Files) -> str:
    """Describe text encoders in the transformer's file, which are ignored; empty if there are none."""
    names = [name for name in read_headers(files[release.transformer]) if name.startswith(TEXT_PREFIX)]
    parts = dict.fromkeys(name.split(".")[1] for name in names)
    if not parts:
        return ""
    return f"{files[release.transformer].place}: its {', '.join(parts)} are ignored; those of {TEXT_REPO} are used"


def check_weights(release: Release, files: Files) -> None:
    """Load every weight file in `files`; raise UserError unless all tensor names, dtypes and shapes are correct."""
    load_transformer(release, files, release.half)
    load_decoder(release, files, release.half)
    for name in release.clip_models:
        load_clip(name, files, release.half)
    if T5_FILE in files:
        load_t5(files, release.half)
