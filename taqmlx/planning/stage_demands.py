"""Requirements of single stages, checked only if the stage is part of the run. Standard library only.

The messages are functions, so that a command run by hand raises the same ones.
"""

import math
from collections.abc import Callable

from taqmlx.planning import plan
from taqmlx.planning.bit_choices import GROUP_SIZES, WIDTHS, Choice
from taqmlx.planning.documents import Config
from taqmlx.planning.layer_rules import UNQUANTIZED, find_rule
from taqmlx.planning.sizes import count_elements


def describe_few_points(key: str, points: int, steps: int, kind: str = "steps") -> str:
    """Message for fewer calibration points than steps."""
    return f"{key}: {points} is too few for {steps} {kind}; set it to {steps} or more"


def describe_many_shards(shards: int, points: int) -> str:
    """Message for more jobs of `capture_blocks` than points to share."""
    return f"capture_shards: {shards} jobs cannot share {points} points; set it to {points} or less"


def describe_nothing_to_search() -> str:
    """Message for a bit search without a layer to quantize."""
    return "weights: all layers have 16 bits, so there are no bits to search; lower some"


def describe_small_size(key: str, size: float, least: float) -> str:
    """Message for a size in bits per weight that is below the least possible."""
    return (
        f"{key}: {size:g} bits per weight are too few: the minimum, with scales and zero points, is {least:.3g};"
        f" raise it to {math.ceil(least * 100) / 100:g} or more"
    )


def describe_missing_captions(model: str) -> str:
    """Message for a model that has no captions of its own."""
    return f"evaluation_prompts: {model} has no captions of its own; name a file of prompts"


def describe_missing_reference(model: str) -> str:
    """Message for a model for which no real images can be drawn."""
    return f"reference_pictures: none can be drawn for {model}; name a folder of pictures"


def describe_missing_judge(model: str) -> str:
    """Message for a model whose pictures the embedded model's classifier cannot judge."""
    return (
        f"inception: the embedded model's classifier cannot judge pictures of {model}; name the"
        " weights of an Inception v3"
    )


def count_least_bits(config: Config) -> float:
    """Smallest bits per weight, over all linear layers, that the bit search can reach."""
    elements = count_elements(config)
    bits = {name: find_rule(config["weights"], name)["bits"] for name in elements}
    smallest = Choice(min(WIDTHS), max(GROUP_SIZES)).bits_per_weight
    stored = sum(count * (UNQUANTIZED if bits[name] == UNQUANTIZED else smallest) for name, count in elements.items())
    return stored / sum(elements.values())


def reject_size(key: str, size: float, config: Config) -> None:
    """Raise ValueError if `size`, in bits per weight, is below the smallest the bit search can reach."""
    least = count_least_bits(config)
    if size < least:
        raise ValueError(describe_small_size(key, size, least))


def reject_search(config: Config) -> None:
    """Raise ValueError if no weight is quantized, or `bits_per_weight` is below the smallest possible size."""
    names = (layer.name for layer in plan.list_layers(config["model"]))
    if all(find_rule(config["weights"], name)["bits"] == UNQUANTIZED for name in names):
        raise ValueError(describe_nothing_to_search())
    if config["bits_per_weight"] is not None:
        reject_size("bits_per_weight", config["bits_per_weight"], config)


def reject_frontier(config: Config) -> None:
    """Raise ValueError for impossible frontier sizes, or more frontier images than evaluation images."""
    for size in config["frontier_sizes"]:
        reject_size("frontier_sizes", size, config)
    if config["frontier_pictures"] > config["evaluation_pictures"]:
        raise ValueError(
            f"frontier_pictures: {config['frontier_pictures']} are more than the {config['evaluation_pictures']} of"
            " evaluation_pictures; lower it, or raise that"
        )


def reject_no_captions(config: Config) -> None:
    """Raise ValueError if the model has no captions of its own and no prompt file is given."""
    if config["model"] not in plan.EMBEDDED and not config["evaluation_prompts"]:
        raise ValueError(describe_missing_captions(config["model"]))


def reject_no_reference(config: Config) -> None:
    """Raise ValueError if real images are neither given nor can be generated."""
    if config["model"] not in plan.EMBEDDED and not config["reference_pictures"]:
        raise ValueError(describe_missing_reference(config["model"]))


def reject_no_judge(config: Config) -> None:
    """Raise ValueError if there is no network to extract image features with."""
    if config["model"] not in plan.EMBEDDED and not config["inception"]:
        raise ValueError(describe_missing_judge(config["model"]))


# By stage.
STAGE_DEMANDS: dict[str, Callable[[Config], None]] = {
    "search_bits": reject_search,
    "measure_frontier": reject_frontier,
    "write_evaluation_prompts": reject_no_captions,
    "draw_reference": reject_no_reference,
    "extract_features": reject_no_judge,
}


def reject_stage(stage: str, config: Config) -> None:
    """Raise ValueError if `stage` cannot run with this configuration."""
    if stage in STAGE_DEMANDS:
        STAGE_DEMANDS[stage](config)
