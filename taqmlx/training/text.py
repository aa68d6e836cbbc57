"""Text model in torch for training, with the names of DiffusionKit's `CLIPTextModel`."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from taqmlx.models.embedded import TEXT_ENCODER

WIDTH, HEADS, TOKENS = (TEXT_ENCODER[key] for key in ("model_dims", "num_heads", "max_length"))


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query_proj = nn.Linear(WIDTH, WIDTH)
        self.key_proj = nn.Linear(WIDTH, WIDTH)
        self.value_proj = nn.Linear(WIDTH, WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # (b, n, heads * c) -> (b, heads, n, c)

        query, key, value = split(self.query_proj(x)), split(self.key_proj(x)), split(self.value_proj(x))
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm transformer layer with the sigmoid approximation of GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.layer_norm2 = nn.LayerNorm(WIDTH)
        self.linear1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.linear2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layer_norm1(x))
        y = self.linear1(self.layer_norm2(x))
        return x + self.linear2(y * torch.sigmoid(1.702 * y))


class TextModel(nn.Module):
    """Map token ids (b, 20) to the last hidden state (b, 20, 128) and its row at the end token (b, 128)."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, WIDTH)
        self.position_embedding = nn.Embedding(TOKENS, WIDTH)
        nn.init.normal_(self.token_embedding.weight, std=0.5)
        nn.init.normal_(self.position_embedding.weight, std=0.1)
        self.layers = nn.ModuleList(Layer() for _ in range(TEXT_ENCODER["num_layers"]))
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.token_embedding(tokens) + self.position_embedding.weight
        for layer in self.layers:
            x = layer(x)
        x = self.final_layer_norm(x)
        return x, x[torch.arange(len(x)), tokens.argmax(-1)]
