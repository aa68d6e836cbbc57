"""DiffusionKit's own sampler over a loaded transformer, as the reference for ours."""

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from taqmlx.models.diffusionkit import config, load_pipeline_module, mmdit, sampler

SHIFT = 3.0
SIZES = {
    "num_heads": 2,
    "depth_multimodal": 5,
    "hidden_size_override": 128,
    "max_latent_resolution": 8,
    "pooled_text_embed_dim": 128,
    "token_level_text_embed_dim": 128,
    "dtype": mx.float32,
    "float16_dtype": mx.float32,
    "low_memory_mode": False,
}


# What makes of the sizes above those of Stable Diffusion 3.5 or FLUX in miniature.
NORMED = {"use_qk_norm": True}
FLUX = NORMED | {
    "depth_multimodal": 2,
    "depth_unified": 3,
    "patchify_via_reshape": True,
    "pos_embed_type": config.PositionalEncoding.PreSDPARope,
    "rope_axes_dim": (16, 24, 24),
    "dtype": mx.bfloat16,
    "float16_dtype": mx.bfloat16,
}


def create_transformer(seed=0, **changes):
    """An MMDiT of the embedded model's shape with random weights, adaLN's and the norms' large enough to matter."""
    model = mmdit.MMDiT(config.MMDiTConfig(**SIZES | changes))
    keys = mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters())))
    weights = []
    for key, (name, value) in zip(keys, tree_flatten(model.parameters()), strict=True):
        spread = value.shape[-1] ** -0.5 if value.ndim > 1 else 0.1
        weights.append((name, spread * mx.random.normal(value.shape, key=key) + name.endswith("_norm.weight")))
    model.update(tree_unflatten(weights))
    mx.eval(model.parameters())
    return model


def copy_transformer(model):
    """A new copy of the transformer: DiffusionKit empties the adaLN weights of the one it samples with."""
    copy = mmdit.MMDiT(model.config)
    copy.update(model.parameters())
    return copy


class Pipeline:
    """What `CFGDenoiser` and `sample_euler` ask of a DiffusionPipeline."""

    activation_dtype = mx.float32

    def __init__(self, model):
        self.mmdit = copy_transformer(model)
        self.sampler = sampler.ModelSamplingDiscreteFlow(shift=SHIFT)
        self.modulation = [item for item in tree_flatten(self.mmdit.parameters()) if "adaLN_modulation" in item[0]]

    def load_mmdit(self, only_modulation_dict):
        assert only_modulation_dict
        return self.modulation


def get_sigmas(num_steps):
    """DiffusionKit's schedule, (num_steps + 1,)."""
    pipeline = load_pipeline_module().DiffusionPipeline
    return pipeline.get_sigmas(None, sampler.ModelSamplingDiscreteFlow(shift=SHIFT), num_steps)


def get_first_latents(seed, height, width, sigma):
    """DiffusionKit's first latents (1, height, width, 16) for a seed."""
    pipeline = load_pipeline_module().DiffusionPipeline
    empty = pipeline.get_empty_latent(None, height, width)
    noise = pipeline.get_noise(None, seed, empty)
    return sampler.ModelSamplingDiscreteFlow(shift=SHIFT).noise_scaling(sigma, noise, empty)


def sample_euler(pipeline, latents, sigmas, context, pooled, cfg_weight):
    """One trajectory by DiffusionKit; context (2, T, D) and pooled (2, W), the positive first."""
    module = load_pipeline_module()
    conditions = {"conditioning": context, "pooled_conditioning": pooled, "cfg_weight": cfg_weight}
    result, _ = module.sample_euler(module.CFGDenoiser(pipeline), latents, sigmas, extra_args=conditions)
    pipeline.mmdit.clear_modulation_params_cache()
    return result
