"""Types of the parts used of DiffusionKit's `MMDiT`, which is untyped, and its linear layers."""

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

from taqmlx.planning.layers import Layer, list_linears


class TransformerConfig(Protocol):
    """Sizes and options of DiffusionKit's `MMDiTConfig`."""

    num_heads: int
    depth_multimodal: int
    depth_unified: int
    parallel_mlp_for_unified_blocks: bool
    layer_norm_eps: float
    use_qk_norm: bool
    max_latent_resolution: int
    patch_size: int
    patchify_via_reshape: bool
    frequency_embed_dim: int
    max_period: int
    dtype: mx.Dtype
    guidance_embed: bool

    @property
    def hidden_size(self) -> int:
        """Width D."""


class Weighted(Protocol):
    """Module with one array: gains of a norm, or a table."""

    weight: mx.array


class Projection(Weighted, Protocol):
    """Convolution over patches."""

    bias: mx.array


class PatchEmbedder(Protocol):
    """Patch embedding."""

    proj: Projection


class PositionEmbedder(Protocol):
    """Learned positions of image tokens."""

    pos_embed: Weighted


class Rotation(Protocol):
    """Rotary positions: base of the angles, and number of channels per axis."""

    theta: int
    axes_dim: Sequence[int]


class HeadNorms(Protocol):
    """Norms of a stream's queries and keys."""

    q_norm: Weighted
    k_norm: Weighted


class Module(Protocol):
    """Node of the module tree: a linear layer, with `weight` and optionally `bias`, or one stream of a block."""

    qk_norm: HeadNorms

    def __getitem__(self, name: str, /) -> mx.array:
        """Array by name."""

    def get(self, name: str, /) -> mx.array | None:
        """Array by name, or None."""


class Transformer(Protocol):
    """Transformer with either learned positions, `x_pos_embedder`, or rotary ones, `pre_sdpa_rope`."""

    config: TransformerConfig
    x_embedder: PatchEmbedder
    x_pos_embedder: PositionEmbedder
    pre_sdpa_rope: Rotation

    def __contains__(self, name: object, /) -> bool:
        """True if the transformer has this part."""

    def parameters(self) -> dict[str, Any]:
        """All arrays, as a tree."""


def list_layers(model: Transformer) -> list[Layer]:
    """All linear layers of `model`, as in `list_linears`."""
    return list_linears(model.config.depth_multimodal, model.config.depth_unified)
