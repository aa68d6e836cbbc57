"""The shapes of a model, known without its weights."""

from typing import NamedTuple

from mlx.utils import tree_flatten

from workflow_scripts import plan
from workflow_scripts.mmdit.capture import measure_shapes
from workflow_scripts.mmdit.forward import resolve_module
from workflow_scripts.mmdit.layers import Layer, list_linears
from workflow_scripts.models import embedded
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.models.diffusionkit import config as sizes
from workflow_scripts.models.diffusionkit import mmdit

CLIP_TOKENS, T5_TOKENS = 154, 435  # Stable Diffusion 3: both CLIP models' 77, then T5's


class ModelShapes(NamedTuple):
    """latent (h, w, c); picture (H, W); context (T, D) and pooled width of a text; image and text, (N, width) and
    (T, width), what a block reads; heads of the attention; weights: (out, in) of every linear by name; parameters of
    the transformer; bytes of each where it computes."""

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
    def tokens(self) -> int:
        """What a row's attention sees, image and text."""
        return self.image[0] + self.text[0]


# By model: the sizes of its transformer, and the tokens of a text by its configuration.
_SIZES = {
    "embedded": lambda: sizes.MMDiTConfig(**embedded.TRANSFORMER, low_memory_mode=False),
    "sd3-medium": lambda: sizes.SD3_2b,
}
_TOKENS = {
    "embedded": lambda config: embedded.TEXT_ENCODER["max_length"],
    "sd3-medium": lambda config: CLIP_TOKENS + (T5_TOKENS if config["use_t5"] else 0),
}


def read_shapes(config: plan.Parameters) -> ModelShapes:
    """The shapes of the model that `config` names. MLX is lazy: no weight comes into being."""
    name = config["model"]
    model, size = find_model(name, config), _SIZES[name]()
    transformer = mmdit.MMDiT(size)
    layers, tokens = list_linears(*plan.MODEL_BLOCKS[name]), _TOKENS[name](config)
    streams = measure_shapes(size, model.LATENT_SHAPE, tokens)
    return ModelShapes(
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
