"""The types of a transformer, as far as it is read here: DiffusionKit's `MMDiT`, which has none of its own."""

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx


class TransformerConfig(Protocol):
    """The sizes and the kinds of parts, of DiffusionKit's `MMDiTConfig`."""

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
        """The width D."""


class Weighted(Protocol):
    """A norm's gains or a table."""

    weight: mx.array


class Projection(Weighted, Protocol):
    """A convolution of patches."""

    bias: mx.array


class PatchEmbedder(Protocol):
    """The embedding of patches."""

    proj: Projection


class PositionEmbedder(Protocol):
    """The learned positions of image tokens."""

    pos_embed: Weighted


class Rotation(Protocol):
    """The rotary positions: the base of the angles, and the channels of each axis."""

    theta: int
    axes_dim: Sequence[int]


class HeadNorms(Protocol):
    """The norms of a stream's queries and keys."""

    q_norm: Weighted
    k_norm: Weighted


class Module(Protocol):
    """A part of the module tree: a linear, with `weight` and perhaps `bias`, or one stream of a block."""

    qk_norm: HeadNorms

    def __getitem__(self, name: str, /) -> mx.array:
        """One of its arrays."""

    def get(self, name: str, /) -> mx.array | None:
        """One of its arrays, or None."""


class Transformer(Protocol):
    """A transformer. It has either learned positions, `x_pos_embedder`, or rotary ones, `pre_sdpa_rope`."""

    config: TransformerConfig
    x_embedder: PatchEmbedder
    x_pos_embedder: PositionEmbedder
    pre_sdpa_rope: Rotation

    def __contains__(self, name: object, /) -> bool:
        """Whether it has this part."""

    def parameters(self) -> dict[str, Any]:
        """All arrays, as a tree."""
