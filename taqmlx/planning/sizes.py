"""What a model's time and memory follow from. Standard library only, as planning asks it too.

The numbers are those of the models' own classes, which `shapes` reads and a test compares.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears, list_streams

CLIP_TOKENS, T5_TOKENS = 154, 435  # Stable Diffusion 3: both CLIP models' 77, then T5's
FLUX_TOKENS, FP32 = 256, 4
SD3_MEDIUM = {"width": 1536, "heads": 24, "parameters": 2_084_877_376, "block_parameters": 56_623_104}
SD3_LARGE = {"width": 2432, "heads": 38, "parameters": 8_146_095_936, "block_parameters": 141_950_976}
FLUX = {"width": 3072, "heads": 24, "parameters": 11_891_061_824, "block_parameters": 226_492_416}
# Of a linear's weight by role, as squares of the width: and of an adaLN linear's by stream, and whether that stream has
# an MLP.
ELEMENTS = {"qkv": 1, "o": 1, "fc1": 4, "fc2": 4}
MODULATIONS = {("image", True): 6, ("text", True): 6, ("text", False): 2, ("unified", True): 3}
FREQUENCIES = 256  # of a time step's features
PATCH_VALUES = 64  # that the final layer gives of each image token: 2 x 2 latents of 16 channels
PIXELS = 16  # of a side of an image token: 8 of a latent, 2 latents


class Sizes(NamedTuple):
    """conditions of a point, its rows; image_tokens; context (T, D) and pooled width of a text; width and heads of the
    transformer; its parameters, and the weights of the largest block that are quantized, without adaLN; bytes of each
    where it computes."""

    conditions: int
    image_tokens: int
    context: tuple[int, int]
    pooled: int
    width: int
    heads: int
    parameters: int
    block_parameters: int
    itemsize: int

    @property
    def tokens(self) -> int:
        """What a row's attention sees, image and text."""
        return self.image_tokens + self.context[0]


def describe_embedded(config: plan.Parameters) -> Sizes:
    """The embedded model's sizes, the same for all configurations."""
    return Sizes(2, 16, (20, 128), 128, 128, 2, 2_909_504, 393_216, itemsize=4)


def count_image_tokens(config: plan.Parameters) -> int:
    """The image tokens of a picture of the configuration's size."""
    count: int = (config["height"] // PIXELS) * (config["width"] // PIXELS)
    return count


def describe_sd3(config: plan.Parameters, sizes: Mapping[str, int]) -> Sizes:
    """Stable Diffusion 3's or 3.5's of these `sizes`."""
    text = CLIP_TOKENS + (T5_TOKENS if config["use_t5"] else 0)
    return Sizes(2, count_image_tokens(config), (text, 4096), 2048, **sizes, itemsize=FP32)


def describe_flux(config: plan.Parameters) -> Sizes:
    """FLUX.1-schnell's, whose prompts are T5's tokens alone."""
    return Sizes(1, count_image_tokens(config), (FLUX_TOKENS, 4096), 768, **FLUX, itemsize=FP32)


_SIZES: dict[str, Callable[[plan.Parameters], Sizes]] = {
    "embedded": describe_embedded,
    "sd3-medium": partial(describe_sd3, sizes=SD3_MEDIUM),
    "sd3.5-large": partial(describe_sd3, sizes=SD3_LARGE),
    "flux-schnell": describe_flux,
}


def read_sizes(config: plan.Parameters) -> Sizes:
    """The sizes of the model that `config` names, as on a CPU: in single precision, which takes the most memory."""
    return _SIZES[config["model"]](config)


def count_elements(config: plan.Parameters) -> dict[str, int]:
    """The elements of the weight of each linear of the model that `config` names, by name."""
    model, sizes = config["model"], read_sizes(config)
    reaching = {(s.block, s.name) for s in list_streams(*plan.MODEL_BLOCKS[model]) if s.reaches_output}
    elements = {}
    for layer in list_linears(*plan.MODEL_BLOCKS[model]):
        if layer.block and layer.role == "adaLN":
            squares: int | None = MODULATIONS[layer.stream, (layer.block, layer.stream) in reaching]
        else:
            squares = ELEMENTS.get(layer.role) if layer.block else None
        elements[layer.name] = squares * sizes.width**2 if squares else sizes.width * count_inputs(layer.name, sizes)
    return elements


def count_inputs(name: str, sizes: Sizes) -> int:
    """The elements of a linear of no block, over the transformer's width."""
    return {
        "context_embedder": sizes.context[1],
        "y_embedder.mlp.layers.0": sizes.pooled,
        "t_embedder.mlp.layers.0": FREQUENCIES,
        "final_layer.adaLN_modulation": 2 * sizes.width,
        "final_layer.linear": PATCH_VALUES,
    }.get(name, sizes.width)
