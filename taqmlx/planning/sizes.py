"""Model sizes that determine time and memory. Standard library only, since planning reads them too.

The numbers match the model classes, which `shapes` reads; a test compares them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from taqmlx.planning import plan
from taqmlx.planning.layers import list_streams

CLIP_TOKENS, T5_TOKENS = 154, 435  # Stable Diffusion 3: tokens of both CLIP models (77 each), and T5 tokens
FLUX_TOKENS, FP32 = 256, 4
SD3_MEDIUM = {"width": 1536, "heads": 24, "parameters": 2_084_877_376, "block_parameters": 56_623_104}
SD3_LARGE = {"width": 2432, "heads": 38, "parameters": 8_146_095_936, "block_parameters": 141_950_976}
FLUX = {"width": 3072, "heads": 24, "parameters": 11_891_061_824, "block_parameters": 226_492_416}
# Elements of a linear's weight in squares of the width: by role, and for adaLN by stream and whether the stream has an
# MLP.
ELEMENTS = {"qkv": 1, "o": 1, "fc1": 4, "fc2": 4}
HARD_MLP_RATIO = 5  # of embedded-hard, whose MLPs have spare units
MODULATIONS = {("image", True): 6, ("text", True): 6, ("text", False): 2, ("unified", True): 3}
FREQUENCIES = 256  # timestep features
PATCH_VALUES = 64  # outputs of the final layer per image token: 2 x 2 latents of 16 channels
PIXELS = 16  # pixels per side of an image token: 2 latents of 8 pixels


class Sizes(NamedTuple):
    """Sizes of a model.

    conditions: rows per point; image_tokens: tokens per row; context: (T, D) of a text; pooled: width of its pooled
    vector; width, heads, parameters: of the transformer; block_parameters: quantized weights of the largest block,
    without adaLN; itemsize: bytes per parameter in computation.
    """

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
        """Tokens per row in the attention, image and text."""
        return self.image_tokens + self.context[0]


def describe_embedded(config: plan.Parameters, parameters: int, block_parameters: int) -> Sizes:
    """Sizes of the embedded model or its hard twin, the same for all configurations."""
    return Sizes(2, 16, (20, 128), 128, 128, 2, parameters, block_parameters, itemsize=4)


def count_image_tokens(config: plan.Parameters) -> int:
    """Image tokens at the configured image size."""
    count: int = (config["height"] // PIXELS) * (config["width"] // PIXELS)
    return count


def describe_sd3(config: plan.Parameters, sizes: Mapping[str, int]) -> Sizes:
    """Sizes of Stable Diffusion 3 or 3.5, with the transformer's `sizes`."""
    text = CLIP_TOKENS + (T5_TOKENS if config["use_t5"] else 0)
    return Sizes(2, count_image_tokens(config), (text, 4096), 2048, **sizes, itemsize=FP32)


def describe_flux(config: plan.Parameters) -> Sizes:
    """Sizes of FLUX.1-schnell, whose context is T5 tokens only."""
    return Sizes(1, count_image_tokens(config), (FLUX_TOKENS, 4096), 768, **FLUX, itemsize=FP32)


_SIZES: dict[str, Callable[[plan.Parameters], Sizes]] = {
    "embedded": partial(describe_embedded, parameters=2_909_504, block_parameters=393_216),
    "embedded-hard": partial(describe_embedded, parameters=3_205_568, block_parameters=458_752),
    "sd3-medium": partial(describe_sd3, sizes=SD3_MEDIUM),
    "sd3.5-large": partial(describe_sd3, sizes=SD3_LARGE),
    "flux-schnell": describe_flux,
}


def read_sizes(config: plan.Parameters) -> Sizes:
    """Sizes of the configured model on a CPU, i.e. in fp32, which takes the most memory."""
    return _SIZES[config["model"]](config)


def count_elements(config: plan.Parameters) -> dict[str, int]:
    """Weight elements of each linear of the configured model, by name."""
    model, sizes = config["model"], read_sizes(config)
    reaching = {(s.block, s.name) for s in list_streams(*plan.MODEL_BLOCKS[model]) if s.reaches_output}
    of_role = ELEMENTS | ({"fc1": HARD_MLP_RATIO, "fc2": HARD_MLP_RATIO} if model == "embedded-hard" else {})
    elements = {}
    for layer in plan.list_layers(model):
        if layer.block and layer.role == "adaLN":
            squares: int | None = MODULATIONS[layer.stream, (layer.block, layer.stream) in reaching]
        else:
            squares = of_role.get(layer.role) if layer.block else None
        elements[layer.name] = squares * sizes.width**2 if squares else sizes.width * count_inputs(layer.name, sizes)
    return elements


def count_inputs(name: str, sizes: Sizes) -> int:
    """Inputs of a linear outside the blocks: its weight elements divided by the transformer's width."""
    return {
        "context_embedder": sizes.context[1],
        "y_embedder.mlp.layers.0": sizes.pooled,
        "t_embedder.mlp.layers.0": FREQUENCIES,
        "final_layer.adaLN_modulation": 2 * sizes.width,
        "final_layer.linear": PATCH_VALUES,
    }.get(name, sizes.width)
