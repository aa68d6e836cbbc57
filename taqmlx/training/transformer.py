"""Transformer in torch for training, with the names of DiffusionKit's `MMDiT`, and one timestep per batch row.

The architecture is that of Esser et al., Scaling Rectified Flow Transformers (2024), as in Stable Diffusion 3.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from taqmlx.models.embedded import TRANSFORMER

WIDTH, HEADS, DEPTH = (TRANSFORMER[key] for key in ("hidden_size_override", "num_heads", "depth_multimodal"))
PATCH, CHANNELS, GRID = (TRANSFORMER[key] for key in ("patch_size", "vae_latent_dim", "max_latent_resolution"))
FREQUENCIES, MAX_PERIOD = TRANSFORMER["frequency_embed_dim"], 10_000.0
NORM_EPSILON = 1e-6


class Layers(nn.Module):
    """Sequence with the attribute name `layers`, as in MLX."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Embedder(nn.Module):
    """Two-layer MLP to the width of the modulation vector."""

    def __init__(self, width_in: int):
        super().__init__()
        self.mlp = Layers(nn.Linear(width_in, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Projections(nn.Module):
    """Attention projections of one stream; keys have no bias."""

    def __init__(self, has_output: bool):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH)
        self.o_proj = nn.Linear(WIDTH, WIDTH) if has_output else None


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, TRANSFORMER["mlp_ratio"] * WIDTH)
        self.fc2 = nn.Linear(TRANSFORMER["mlp_ratio"] * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Stream(nn.Module):
    """Image or text stream of a block. `has_output` is False for the text stream of the last block."""

    def __init__(self, has_output: bool):
        super().__init__()
        self.attn = Projections(has_output)
        self.mlp = FeedForward() if has_output else None
        self.adaLN_modulation = build_modulation(6 if has_output else 2)

    def project(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, (b, n, 128) each, and the remaining modulation vectors, (b, 1, 128) each."""
        shift, scale, *rest = self.adaLN_modulation(modulation).chunk(2 if self.mlp is None else 6, dim=-1)
        y = normalise(x) * (1 + scale) + shift
        return self.attn.q_proj(y), self.attn.k_proj(y), self.attn.v_proj(y), rest

    def finish(self, x: Tensor, attended: Tensor, modulation: list[Tensor]) -> Tensor:
        """Add the outputs of attention and MLP to the stream."""
        attention_gate, shift, scale, gate = modulation
        x = x + self.attn.o_proj(attended) * attention_gate
        return x + gate * self.mlp(normalise(x) * (1 + scale) + shift)


class Block(nn.Module):
    """Joint attention block over both streams, in the order image, text."""

    def __init__(self, has_text_output: bool):
        super().__init__()
        self.image_transformer_block = Stream(has_output=True)
        self.text_transformer_block = Stream(has_output=has_text_output)

    def forward(self, image: Tensor, text: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor | None]:
        *image_qkv, image_modulation = self.image_transformer_block.project(image, modulation)
        *text_qkv, text_modulation = self.text_transformer_block.project(text, modulation)
        query, key, value = (
            torch.cat(pair, dim=1).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # (b, n, c) -> (b, heads, n, c / heads)
            for pair in zip(image_qkv, text_qkv, strict=True)
        )
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        count = image.shape[1]
        image = self.image_transformer_block.finish(image, attended[:, :count], image_modulation)
        if self.text_transformer_block.mlp is None:
            return image, None
        return image, self.text_transformer_block.finish(text, attended[:, count:], text_modulation)


class Transformer(nn.Module):
    """Map noisy latents (b, 16, 8, 8), text and timestep to the predicted velocity (b, 16, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(CHANNELS, WIDTH, PATCH, stride=PATCH)})
        self.x_pos_embedder = nn.ModuleDict({"pos_embed": nn.Embedding(GRID**2, WIDTH)})
        nn.init.normal_(self.x_pos_embedder["pos_embed"].weight, std=0.1)
        self.y_embedder = Embedder(TRANSFORMER["pooled_text_embed_dim"])
        self.t_embedder = Embedder(FREQUENCIES)
        self.context_embedder = nn.Linear(TRANSFORMER["token_level_text_embed_dim"], WIDTH)
        self.multimodal_transformer_blocks = nn.ModuleList(Block(i < DEPTH - 1) for i in range(DEPTH))
        self.final_layer = FinalLayer()

    def forward(self, latents: Tensor, cs: Tensor, cs_pooled: Tensor, timestep: Tensor) -> Tensor:
        """`cs` (b, tokens, 128), `cs_pooled` (b, 128), `timestep` (b,) in [0, 1000]."""
        patches = latents.shape[-1] // PATCH
        image = self.x_embedder["proj"](latents) + self.crop_positions(patches)
        image = image.flatten(2).transpose(1, 2)  # (b, 128, 4, 4) -> (b, 16, 128)
        text = self.context_embedder(cs)
        modulation = (self.y_embedder(cs_pooled) + self.t_embedder(embed_timestep(timestep)))[:, None]
        for block in self.multimodal_transformer_blocks:
            image, text = block(image, text, modulation)
        output = self.final_layer(image, modulation)
        output = output.unflatten(1, (patches, patches)).unflatten(-1, (PATCH, PATCH, CHANNELS))
        return output.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (b, h, w, p, q, c) -> (b, c, h p, w q)

    def crop_positions(self, patches: int) -> Tensor:
        """Centre of the position table, (128, patches, patches)."""
        table = self.x_pos_embedder["pos_embed"].weight.T.unflatten(1, (GRID, GRID))
        start = (GRID - patches) // 2
        return table[:, start : start + patches, start : start + patches]


class FinalLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, PATCH**2 * CHANNELS)
        self.adaLN_modulation = build_modulation(2)

    def forward(self, image: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(modulation).chunk(2, dim=-1)
        return self.linear(normalise(image) * (1 + scale) + shift)


def build_modulation(parts: int) -> Layers:
    """adaLN layer, initialised to zero so that every block starts as the identity (Peebles & Xie, 2023)."""
    linear = nn.Linear(WIDTH, parts * WIDTH)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return Layers(nn.SiLU(), linear)


def normalise(x: Tensor) -> Tensor:
    return functional.layer_norm(x, (WIDTH,), eps=NORM_EPSILON)


def embed_timestep(timestep: Tensor) -> Tensor:
    """Cosines, then sines, of `timestep` at geometrically spaced frequencies: (b,) to (b, 256) fp32."""
    half = FREQUENCIES // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32) / half)
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
