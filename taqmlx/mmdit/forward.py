"""Forward of the MMDiT (Esser et al. 2024, arXiv 2403.03206), shared by all stages.

Every linear layer is called through a function `linear(name, x)`. A stage records, replaces or quantizes layers by
passing another function; the model's modules and weights are never modified.
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx

from taqmlx.mmdit.blocks import (
    Block,
    Linear,
    Tokens,
    build_blocks,
    normalize,
    resolve_module,
    run_block,
    split_modulation,
)
from taqmlx.mmdit.patches import embed_latents, restore_latents
from taqmlx.mmdit.transformer import Transformer, TransformerConfig, list_layers
from taqmlx.planning.layers import UNIFIED, Layer


def bind_linears(model: Transformer) -> Linear:
    """Full-precision `linear(name, x)` with the weights of `model`, x (..., in) -> (..., out)."""
    layers = list_layers(model)
    weights = {layer.name: resolve_module(model, layer.path)["weight"].T for layer in layers}
    return bind_transposed(weights, {layer.name: resolve_bias(model, layer) for layer in layers})


def bind_weights(weights: Mapping[str, mx.array], biases: Mapping[str, mx.array | None]) -> Linear:
    """`linear(name, x)` with weights (out, in) and biases (out,) or None, differentiable in all of them."""
    return bind_transposed({name: weight.T for name, weight in weights.items()}, biases)


def bind_transposed(weights: Mapping[str, mx.array], biases: Mapping[str, mx.array | None]) -> Linear:
    """`linear(name, x)` with weights (in, out) and biases (out,) or None."""

    def linear(name: str, x: mx.array) -> mx.array:
        y, bias = x @ weights[name], biases[name]
        return y if bias is None else y + bias  # faster on a CPU than mx.addmm

    return linear


def resolve_bias(model: Transformer, layer: Layer) -> mx.array | None:
    """Bias (out,) of a layer, or None.

    FLUX has one bias for the sum of a unified block's o_proj and fc2. DiffusionKit loads it into both layers and
    removes it from fc2 before it runs the block.
    """
    if (layer.stream, layer.role) == (UNIFIED, "fc2"):
        return None
    return resolve_module(model, layer.path).get("bias")


def measure_shapes(config: TransformerConfig, latent_shape: Sequence[int], tokens: int) -> dict[str, list[int]]:
    """`image_shape` (N, D) and `text_shape` (T, D) of a row, for latents (h, w, c) and prompts of `tokens` tokens."""
    height, width, _ = latent_shape
    patches = (height // config.patch_size) * (width // config.patch_size)
    return {"image_shape": [patches, config.hidden_size], "text_shape": [tokens, config.hidden_size]}


def predict_velocity(
    model: Transformer,
    linear: Linear,
    latents: mx.array,
    context: mx.array,
    pooled: mx.array,
    timesteps: mx.array,
    rows: mx.array,
) -> mx.array:
    """Velocity (B, h, w, c) of latents (B, h, w, c), each under its own condition.

    context (U, T, D), pooled (U, W) and timesteps (U,), 1000 sigma, have one entry per condition; rows (B,) int maps a
    latent to its condition. Modulation and text embedding are computed for the U conditions, then indexed by row.
    Raises UserError if the transformer is not supported.
    """
    blocks = build_blocks(model, latents.shape[1:])
    text: mx.array | None
    image, text, modulation = begin_blocks(model, linear, latents, context, pooled, timesteps, rows)
    for block in blocks:
        image, text = advance_block(linear, block, image, text, modulation, rows)
    return finish_velocity(model, linear, image, modulation, rows, latents.shape)


def begin_blocks(
    model: Transformer,
    linear: Linear,
    latents: mx.array,
    context: mx.array,
    pooled: mx.array,
    timesteps: mx.array,
    rows: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """Inputs of the first block, image (B, N, D) and text (B, T, D), and the input of every adaLN linear, (U, D).

    Arguments as in `predict_velocity`.
    """
    modulation = embed_condition(model.config, linear, pooled, timesteps)
    image = embed_latents(model, latents)
    return image, linear("context_embedder", context)[rows], modulation


def advance_block(
    linear: Linear, block: Block, image: mx.array, text: mx.array | None, modulation: mx.array, rows: mx.array
) -> Tokens:
    """One block with its adaLN linears: image (B, N, D) and text (B, T, D) after the block, text None after the last.

    modulation (U, D): inputs of the adaLN linears; rows (B,) int maps a row to its entry.
    """
    streams = {name: modulate_stream(linear, f"{block.name}.{name}", modulation, rows) for name in block.streams}
    return run_block(linear, block, image, text, streams)


def finish_velocity(
    model: Transformer, linear: Linear, image: mx.array, modulation: mx.array, rows: mx.array, shape: tuple[int, ...]
) -> mx.array:
    """Velocity of `shape` (B, h, w, c) from the last block's image (B, N, D)."""
    shift, scale = split_modulation(modulate_stream(linear, "final_layer", modulation, rows))
    patches = linear("final_layer.linear", normalize(image, shift, scale, model.config.layer_norm_eps))
    return restore_latents(model.config, patches, shape)


def embed_condition(config: TransformerConfig, linear: Linear, pooled: mx.array, timesteps: mx.array) -> mx.array:
    """Input of every adaLN linear: SiLU of the sum of the pooled text embedding and the timestep embedding, (U, D)."""
    told = expand_timesteps(config, timesteps).astype(pooled.dtype)
    return silu(embed(linear, "y_embedder", pooled) + embed(linear, "t_embedder", told))


def embed(linear: Linear, name: str, x: mx.array) -> mx.array:
    """Output (U, D) of the two-layer embedder `name` for x (U, in)."""
    return linear(f"{name}.mlp.layers.2", silu(linear(f"{name}.mlp.layers.0", x)))


def silu(x: mx.array) -> mx.array:
    """x sigmoid(x)."""
    return x * mx.sigmoid(x)


def expand_timesteps(config: TransformerConfig, timesteps: mx.array) -> mx.array:
    """Sinusoidal features (U, frequency_embed_dim) of timesteps (U,), cosines first, in DiffusionKit's precision."""
    half = config.frequency_embed_dim // 2
    exponents = -mx.log(mx.array(config.max_period)) * mx.arange(half, dtype=config.dtype) / half
    angles = timesteps[:, None].astype(config.dtype) * mx.exp(exponents).astype(config.dtype)
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


def modulate_stream(linear: Linear, name: str, modulation: mx.array, rows: mx.array) -> mx.array:
    """adaLN output of one stream, (B, 1, n D), computed per condition and indexed by row."""
    return linear(f"{name}.adaLN_modulation", modulation)[rows][:, None]
