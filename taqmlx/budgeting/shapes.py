"""Shapes of a model, known without its weights."""

from typing import NamedTuple

from mlx.utils import tree_flatten

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.forward import measure_shapes
from taqmlx.models import embedded, embedded_hard
from taqmlx.models.catalogue import find_model
from taqmlx.models.diffusionkit import config as sizes
from taqmlx.models.diffusionkit import mmdit
from taqmlx.planning import plan
from taqmlx.planning.layers import Layer
from taqmlx.planning.sizes import Sizes, read_sizes
from taqmlx.planning.stage_groups import ModelOptions


class ModelShapes(NamedTuple):
    """Shapes of a model.

    conditions: rows per point; latent (h, w, c); picture (H, W); context (T, D) and pooled width of a text; image (N,
    width) and text (T, width): block inputs; heads: attention heads; weights: (out, in) of every linear by name;
    parameters: number of them in the transformer; itemsize: bytes of a parameter at compute precision.
    """

    conditions: int
    latent: tuple[int, ...]
    picture: tuple[int, int]
    context: tuple[int, int]
    pooled: int
    image: tuple[int, int]
    text: tuple[int, int]
    heads: int
    layers: list[Layer]
    weights: dict[str, tuple[int, int]]
    parameters: int
    itemsize: int

    @property
    def sizes(self) -> Sizes:
        """Sizes that determine time and memory."""
        return Sizes(
            conditions=self.conditions,
            image_tokens=self.image[0],
            context=self.context,
            pooled=self.pooled,
            width=self.image[1],
            heads=self.heads,
            parameters=self.parameters,
            block_parameters=max(count_block_weights(self).values()),
            itemsize=self.itemsize,
        )


# Transformer sizes, by model.
_SIZES = {
    "embedded": lambda: sizes.MMDiTConfig(**embedded.TRANSFORMER, low_memory_mode=False),
    "embedded-hard": lambda: sizes.MMDiTConfig(**embedded_hard.TRANSFORMER, low_memory_mode=False),
    "sd3-medium": lambda: sizes.SD3_2b,
    "sd3.5-large": lambda: sizes.SD3_8b,
    "flux-schnell": lambda: sizes.FLUX_SCHNELL,
}


def read_shapes(config: plan.Parameters) -> ModelShapes:
    """Shapes of the model in `config`. MLX is lazy: no weight is allocated."""
    name = config["model"]
    model, size = find_model(name, ModelOptions.take(config), config["weights_from"]), _SIZES[name]()
    transformer = mmdit.MMDiT(size)
    layers, tokens = plan.list_layers(name), read_sizes(config).context[0]
    streams = measure_shapes(size, model.LATENT_SHAPE, tokens)
    return ModelShapes(
        conditions=plan.count_conditions(name),
        latent=tuple(model.LATENT_SHAPE),
        picture=tuple(model.PICTURE_SHAPE),
        context=(tokens, size.token_level_text_embed_dim),
        pooled=size.pooled_text_embed_dim,
        image=tuple(streams["image_shape"]),
        text=tuple(streams["text_shape"]),
        heads=size.num_heads,
        layers=layers,
        weights={layer.name: tuple(resolve_module(transformer, layer.path)["weight"].shape) for layer in layers},
        parameters=sum(value.size for _, value in tree_flatten(transformer.parameters())),
        itemsize=model.dtype.size if hasattr(model, "dtype") else 4,
    )


def count_block_weights(shapes: ModelShapes) -> dict[str, int]:
    """Number of quantizable weights of each block."""
    counts: dict[str, int] = {}
    for layer in (layer for layer in shapes.layers if layer.block and layer.role != "adaLN"):
        out, columns = shapes.weights[layer.name]
        counts[layer.block] = counts.get(layer.block, 0) + out * columns
    return counts
