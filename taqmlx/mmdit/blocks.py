"""Transformer blocks as functions of linear layers: multimodal blocks, followed by FLUX's unified blocks.

Every linear layer is called through `linear(name, x)`. Inputs and outputs keep image and text tokens separate, even
where a block joins them internally; in the attention, image tokens come first. Queries and keys may have RMS norms and
rotary positions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx

from taqmlx.mmdit.positions import compute_rotation, rotate
from taqmlx.mmdit.transformer import Module, Transformer, TransformerConfig
from taqmlx.numerics.elementwise import select_kernels
from taqmlx.planning.layers import UNIFIED, Stream, list_streams
from taqmlx.store.errors import UserError

Linear = Callable[[str, mx.array], mx.array]
# image (B, N, D) and text (B, T, D); text is None after the last block that uses it
Tokens = tuple[mx.array, mx.array | None]
NORM_EPS = 1e-6  # of the norms of queries and keys, as in DiffusionKit


@dataclass(frozen=True, eq=False)
class Block:
    """Properties of one block, without its linear layers.

    streams: `image` and `text`, or `unified`; text_reaches_output: True if a later block uses its text output; norms:
    gains (head dim,) of the RMS norms of queries and keys, by stream; rotation: of the image's queries and keys, or
    None.
    """

    name: str
    num_heads: int
    eps: float
    streams: tuple[str, ...]
    text_reaches_output: bool
    norms: dict[str, tuple[mx.array, mx.array]] = field(default_factory=dict)
    rotation: mx.array | None = None


def resolve_module(model: Transformer, path: str) -> Module:
    """Module at a dotted path of an MLX module tree."""
    found: Any = model
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else found[part]
    module: Module = found
    return module


def reject_unsupported(config: TransformerConfig) -> None:
    """Raise UserError if the forward does not support a DiffusionKit `MMDiTConfig`."""
    unsupported = {
        "a guidance embedder": config.guidance_embed,
        "unified blocks whose MLP follows the attention": config.depth_unified > 0
        and not config.parallel_mlp_for_unified_blocks,
    }
    found = [feature for feature, present in unsupported.items() if present]
    if found:
        raise UserError(
            f"this transformer has {', '.join(found)}, which is not implemented;"
            " use Stable Diffusion 3, 3.5 or FLUX.1-schnell"
        )


def build_blocks(model: Transformer, latent_shape: tuple[int, ...]) -> list[Block]:
    """Blocks of DiffusionKit's `MMDiT` in forward order, for latents of `latent_shape` (h, w, c).

    Raises UserError if the transformer is not supported.
    """
    config = model.config
    reject_unsupported(config)
    rotation = compute_rotation(model, *(side // config.patch_size for side in latent_shape[:2]))
    by_block: dict[str, list[Stream]] = {}
    for stream in list_streams(config.depth_multimodal, config.depth_unified):
        by_block.setdefault(stream.block, []).append(stream)
    last = list(by_block)[-1]
    return [
        Block(
            name=name,
            num_heads=config.num_heads,
            eps=config.layer_norm_eps,
            streams=tuple(stream.name for stream in streams),
            text_reaches_output=name != last,
            norms={stream.name: read_norms(model, stream) for stream in streams if config.use_qk_norm},
            rotation=rotation,
        )
        for name, streams in by_block.items()
    ]


def find_block(model: Transformer, name: str, latent_shape: tuple[int, ...]) -> Block:
    """Block named `name`. Raises UserError as `build_blocks`."""
    return next(block for block in build_blocks(model, latent_shape) if block.name == name)


def read_norms(model: Transformer, stream: Stream) -> tuple[mx.array, mx.array]:
    """Gains (head dim,) of the norms of a stream's queries and keys."""
    norms = resolve_module(model, stream.path).qk_norm
    return norms.q_norm.weight, norms.k_norm.weight


def run_block(
    linear: Linear, block: Block, image: mx.array, text: mx.array | None, modulations: Mapping[str, mx.array]
) -> Tokens:
    """Outputs of one block for image (B, N, D) and text (B, T, D), of the same shapes, differentiable.

    The text output is None if no later block uses it. modulations: adaLN outputs by stream, in the order shift, scale
    and gate of the attention, then of the MLP: (B, 1, 6 D); (B, 1, 2 D) for a text stream that ends at the attention;
    (B, 1, 3 D) for a unified block, whose MLP shares the input and the gate of the attention.
    """
    run = run_unified if UNIFIED in block.streams else run_multimodal
    # The text input is never None here: only the last block returns no text.
    return run(linear, block, image, cast(mx.array, text), modulations)


def run_multimodal(
    linear: Linear, block: Block, image: mx.array, text: mx.array, modulations: Mapping[str, mx.array]
) -> Tokens:
    """Multimodal block, with separate weights for image and text; arguments as in `run_block`."""
    image_parts = split_modulation(modulations["image"], 6)
    text_parts = split_modulation(modulations["text"], 6 if block.text_reaches_output else 2)
    heads = [
        project_heads(linear, block, stream, normalize(x, parts[0], parts[1], block.eps))
        for stream, x, parts in (("image", image, image_parts), ("text", text, text_parts))
    ]
    q, k, v = (mx.concatenate(list(pair), axis=2) for pair in zip(*heads, strict=True))  # (B, heads, N + T, head dim)
    image_attended, text_attended = mx.split(attend(block, q, k, v), [image.shape[1]], axis=2)
    image = finish_stream(linear, f"{block.name}.image", block, image, image_attended, image_parts)
    if not block.text_reaches_output:
        return image, None
    return image, finish_stream(linear, f"{block.name}.text", block, text, text_attended, text_parts)


def run_unified(
    linear: Linear, block: Block, image: mx.array, text: mx.array, modulations: Mapping[str, mx.array]
) -> Tokens:
    """Unified block, with the same weights for all tokens and a parallel MLP; arguments as in `run_block`.

    MLP parallel to the attention: Dehghani et al. 2023, arXiv 2302.05442, section 2.
    """
    shift, scale, gate = split_modulation(modulations[UNIFIED], 3)
    tokens, name = mx.concatenate([image, text], axis=1), f"{block.name}.{UNIFIED}"  # (B, N + T, D)
    normal = normalize(tokens, shift, scale, block.eps)
    attended = merge_heads(attend(block, *project_heads(linear, block, UNIFIED, normal)))
    hidden = select_kernels().gelu(linear(f"{name}.mlp.fc1", normal))
    added = linear(f"{name}.attn.o_proj", attended) + linear(f"{name}.mlp.fc2", hidden)
    image, text = mx.split(tokens + gate * added, [image.shape[1]], axis=1)
    return image, text if block.text_reaches_output else None


def split_modulation(modulation: mx.array, count: int = 2) -> list[mx.array]:
    """Modulation (B, 1, count D) split into `count` arrays (B, 1, D)."""
    return list(mx.split(modulation, count, axis=-1))


def normalize(x: mx.array, shift: mx.array, scale: mx.array, eps: float) -> mx.array:
    """Modulated layer norm, LN(x) (1 + scale) + shift; x (B, T, D), shift and scale (B, 1, D)."""
    return select_kernels().layer_norm(x, eps) * (1.0 + scale) + shift


def project_heads(linear: Linear, block: Block, stream: str, x: mx.array) -> list[mx.array]:
    """Queries, keys and values of x (B, T, D), each (B, heads, T, head dim); the first two normed if in `norms`."""
    batch, length, _ = x.shape
    heads = [
        linear(f"{block.name}.{stream}.attn.{part}_proj", x).reshape(batch, length, block.num_heads, -1).swapaxes(1, 2)
        for part in ("q", "k", "v")
    ]
    gains = block.norms.get(stream, ())
    normed = [select_kernels().rms_norm(part, gain, NORM_EPS) for part, gain in zip(heads, gains, strict=False)]
    return normed + heads[len(normed) :]


def attend(block: Block, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Attention output of q, k, v (B, heads, N + T, head dim), image tokens first, in the same shape."""
    q, k = rotate(q, block.rotation), rotate(k, block.rotation)
    return select_kernels().attend(q, k, v, q.shape[-1] ** -0.5)


def merge_heads(attended: mx.array) -> mx.array:
    """Heads (B, heads, T, head dim) merged into (B, T, D)."""
    batch, _, length, _ = attended.shape
    return attended.swapaxes(1, 2).reshape(batch, length, -1)  # (B, T, heads, head dim) -> (B, T, D)


def finish_stream(
    linear: Linear, name: str, block: Block, x: mx.array, attended: mx.array, parts: list[mx.array]
) -> mx.array:
    """Remainder of a block for one stream: output projection, MLP and their gated residuals.

    x (B, T, D); attended (B, heads, T, head dim); parts: the six modulation arrays (B, 1, D).
    """
    x = x + linear(f"{name}.attn.o_proj", merge_heads(attended)) * parts[2]
    hidden = linear(f"{name}.mlp.fc1", normalize(x, parts[3], parts[4], block.eps))
    return x + parts[5] * linear(f"{name}.mlp.fc2", select_kernels().gelu(hidden))
