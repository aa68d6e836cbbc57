"""One forward of the MMDiT (Esser et al. 2024, arXiv 2403.03206) for every stage.

Every linear layer goes through a function `linear(name, x)`, so that a stage records, replaces or quantizes a layer by
handing in another function; the model's modules and weights are only read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from workflow_scripts.mmdit.layers import Stream, list_linears, list_streams
from workflow_scripts.numerics.elementwise import select_kernels
from workflow_scripts.store.errors import UserError

Linear = Callable[[str, mx.array], mx.array]


@dataclass(frozen=True)
class Block:
    """What one multimodal block needs besides its linears."""

    name: str
    num_heads: int
    eps: float
    text_reaches_output: bool


def resolve_module(model: Any, path: str) -> Any:
    """The module at a dotted path of an MLX module tree."""
    for part in path.split("."):
        model = model[int(part)] if part.isdigit() else model[part]
    return model


def bind_linears(model: Any) -> Linear:
    """`linear(name, x)` in full precision over the weights of `model`, x (..., in) -> (..., out)."""
    layers = list_linears(model.config.depth_multimodal, model.config.depth_unified)
    modules = [resolve_module(model, layer.path) for layer in layers]
    weights = {layer.name: module["weight"].T for layer, module in zip(layers, modules, strict=True)}
    biases = {layer.name: module.get("bias") for layer, module in zip(layers, modules, strict=True)}

    def linear(name: str, x: mx.array) -> mx.array:
        y, bias = x @ weights[name], biases[name]
        return y if bias is None else y + bias  # faster on a CPU than mx.addmm

    return linear


def list_blocks(config: Any) -> list[Block]:
    """The multimodal blocks of a DiffusionKit `MMDiTConfig`. Raises UserError for what the forward does not do."""
    unsupported = {
        "unified blocks": config.depth_unified > 0,
        "query-key norms": config.use_qk_norm,
        "patches by reshape": config.patchify_via_reshape,
        "a guidance embedder": config.guidance_embed,
    }
    found = [feature for feature, present in unsupported.items() if present]
    if found:
        raise UserError(f"this transformer has {', '.join(found)}, which is not implemented; use an SD3 Medium shape")
    texts = [stream for stream in list_streams(config.depth_multimodal) if stream.name == "text"]
    return [create_block(config, text) for text in texts]


def create_block(config: Any, text: Stream) -> Block:
    """The block that the stream `text` belongs to."""
    return Block(text.block, config.num_heads, config.layer_norm_eps, text.reaches_output)


def predict_velocity(
    model: Any,
    linear: Linear,
    latents: mx.array,
    context: mx.array,
    pooled: mx.array,
    timesteps: mx.array,
    rows: mx.array,
) -> mx.array:
    """The velocity (B, h, w, c) of latents (B, h, w, c), each under its own condition.

    context (U, T, D), pooled (U, W) and timesteps (U,), 1000 sigma, are given once per condition; rows (B,) int maps a
    latent to its condition. Modulation and text embedding are computed for the U conditions, then taken per row.
    Raises UserError for an unsupported kind of transformer.
    """
    blocks = list_blocks(model.config)
    image, text, modulation = begin_blocks(model, linear, latents, context, pooled, timesteps, rows)
    for block in blocks:
        image, text = advance_block(linear, block, image, text, modulation, rows)
    return finish_velocity(model, linear, image, modulation, rows, latents.shape)


def begin_blocks(
    model: Any,
    linear: Linear,
    latents: mx.array,
    context: mx.array,
    pooled: mx.array,
    timesteps: mx.array,
    rows: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """What the first block reads: image (B, N, D), text (B, T, D), and what every adaLN reads, (U, D).

    The arguments are those of `predict_velocity`.
    """
    modulation = embed_condition(model.config, linear, pooled, timesteps)
    image = embed_latents(model, latents)
    return image, linear("context_embedder", context)[rows], modulation


def advance_block(
    linear: Linear, block: Block, image: mx.array, text: mx.array, modulation: mx.array, rows: mx.array
) -> tuple[mx.array, mx.array | None]:
    """One block with its adaLN linears: image (B, N, D) and text (B, T, D) to the next block's, None after the last.

    modulation (U, D) is what the adaLN linears read, rows (B,) int maps a row to its own.
    """
    image_modulation = modulate_stream(linear, f"{block.name}.image", modulation, rows)
    text_modulation = modulate_stream(linear, f"{block.name}.text", modulation, rows)
    return run_block(linear, block, image, text, image_modulation, text_modulation)


def finish_velocity(
    model: Any, linear: Linear, image: mx.array, modulation: mx.array, rows: mx.array, shape: tuple[int, ...]
) -> mx.array:
    """The velocity of `shape` (B, h, w, c) from the last block's image (B, N, D)."""
    shift, scale = split_modulation(modulate_stream(linear, "final_layer", modulation, rows))
    patches = linear("final_layer.linear", normalize(image, shift, scale, model.config.layer_norm_eps))
    return unpatchify(patches, shape, model.config.patch_size)


def embed_condition(config: Any, linear: Linear, pooled: mx.array, timesteps: mx.array) -> mx.array:
    """What every adaLN reads: SiLU of the pooled text's plus the time step's embedding, (U, D)."""
    return silu(embed(linear, "y_embedder", pooled) + embed(linear, "t_embedder", expand_timesteps(config, timesteps)))


def embed(linear: Linear, name: str, x: mx.array) -> mx.array:
    """The two-layer embedder `name` of x (U, in), (U, D)."""
    return linear(f"{name}.mlp.layers.2", silu(linear(f"{name}.mlp.layers.0", x)))


def silu(x: mx.array) -> mx.array:
    """x sigmoid(x)."""
    return x * mx.sigmoid(x)


def expand_timesteps(config: Any, timesteps: mx.array) -> mx.array:
    """Sinusoidal features (U, frequency_embed_dim) of timesteps (U,), cosines first."""
    half = config.frequency_embed_dim // 2
    exponents = -mx.log(mx.array(config.max_period)) * mx.arange(half, dtype=config.dtype) / half
    angles = timesteps[:, None].astype(config.dtype) * mx.exp(exponents).astype(config.dtype)
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


def embed_latents(model: Any, latents: mx.array) -> mx.array:
    """Patch tokens (B, N, D) of latents (B, h, w, c) with their positions: the patch convolution as one product."""
    batch, height, width, channels = latents.shape
    size = model.config.patch_size
    h, w = height // size, width // size
    patches = latents.reshape(batch, h, size, w, size, channels).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(batch, h * w, size * size * channels)
    projection = model.x_embedder.proj
    weight = projection.weight.reshape(projection.weight.shape[0], -1)  # (D, size, size, c) -> (D, size size c)
    return patches @ weight.T + (projection.bias + crop_positions(model, h, w))


def crop_positions(model: Any, h: int, w: int) -> mx.array:
    """The centre h x w of the learned position table, (1, h w, D)."""
    side = model.config.max_latent_resolution
    top, left = (side - h) // 2, (side - w) // 2
    table = model.x_pos_embedder.pos_embed.weight.reshape(1, side, side, -1)
    return table[:, top : top + h, left : left + w].reshape(1, h * w, -1)


def unpatchify(patches: mx.array, shape: tuple[int, ...], size: int) -> mx.array:
    """Patch tokens (B, N, size size c) back to latents of `shape` (B, h, w, c)."""
    batch, height, width, channels = shape
    grid = patches.reshape(batch, height // size, width // size, size, size, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def modulate_stream(linear: Linear, name: str, modulation: mx.array, rows: mx.array) -> mx.array:
    """The adaLN output of one stream, computed per condition and taken per row: (B, 1, n D)."""
    return linear(f"{name}.adaLN_modulation", modulation)[rows][:, None]


def split_modulation(modulation: mx.array, count: int = 2) -> list[mx.array]:
    """(B, 1, count D) as `count` arrays (B, 1, D)."""
    return mx.split(modulation, count, axis=-1)


def normalize(x: mx.array, shift: mx.array, scale: mx.array, eps: float) -> mx.array:
    """Modulated layer norm, LN(x) (1 + scale) + shift; x (B, T, D), shift and scale (B, 1, D)."""
    return select_kernels().layer_norm(x, eps) * (1.0 + scale) + shift


def run_block(
    linear: Linear,
    block: Block,
    image: mx.array,
    text: mx.array,
    image_modulation: mx.array,
    text_modulation: mx.array,
) -> tuple[mx.array, mx.array | None]:
    """One multimodal block: image (B, N, D) and text (B, T, D) to the same, differentiable.

    The modulations are the streams' adaLN outputs (B, 1, 6 D), in the order shift, scale and gate of the attention,
    then of the MLP; (B, 1, 2 D) for the last block's text, whose stream ends there: None is returned for it.
    """
    image_parts = split_modulation(image_modulation, 6)
    text_parts = split_modulation(text_modulation, 6 if block.text_reaches_output else 2)
    queries = [
        project_heads(linear, f"{block.name}.{stream}", block, normalize(x, *parts[:2], block.eps))
        for stream, x, parts in (("image", image, image_parts), ("text", text, text_parts))
    ]
    q, k, v = (mx.concatenate(pair, axis=2) for pair in zip(*queries, strict=True))  # (B, heads, N + T, head dim)
    attended = select_kernels().attend(q, k, v, q.shape[-1] ** -0.5)
    image_attended, text_attended = mx.split(attended, [image.shape[1]], axis=2)
    image = finish_stream(linear, f"{block.name}.image", block, image, image_attended, image_parts)
    if not block.text_reaches_output:
        return image, None
    return image, finish_stream(linear, f"{block.name}.text", block, text, text_attended, text_parts)


def project_heads(linear: Linear, name: str, block: Block, x: mx.array) -> list[mx.array]:
    """Queries, keys and values of x (B, T, D), each (B, heads, T, head dim)."""
    batch, length, _ = x.shape
    return [
        linear(f"{name}.attn.{part}_proj", x).reshape(batch, length, block.num_heads, -1).swapaxes(1, 2)
        for part in ("q", "k", "v")
    ]


def finish_stream(
    linear: Linear, name: str, block: Block, x: mx.array, attended: mx.array, parts: list[mx.array]
) -> mx.array:
    """The rest of a block for one stream: output projection, MLP and their gated residuals.

    x (B, T, D); attended (B, heads, T, head dim); parts the six modulation arrays (B, 1, D).
    """
    merged = attended.swapaxes(1, 2).reshape(x.shape)  # (B, T, heads, head dim) -> (B, T, D)
    x = x + linear(f"{name}.attn.o_proj", merged) * parts[2]
    hidden = linear(f"{name}.mlp.fc1", normalize(x, parts[3], parts[4], block.eps))
    return x + parts[5] * linear(f"{name}.mlp.fc2", select_kernels().gelu(hidden))
