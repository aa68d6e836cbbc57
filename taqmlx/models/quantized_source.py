"""Source of a model's quantized layers: packed weights, and a quantization config if the inputs are quantized too."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from mlx.utils import tree_flatten

from taqmlx.mmdit.packed import list_packed, name_precision, restore_weight
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.protocol import Model
from taqmlx.numerics.quality import compare_weights
from taqmlx.planning.layers import Layer
from taqmlx.store.block_inputs import FOLDS
from taqmlx.store.errors import UserError
from taqmlx.store.packed_checkpoint import PackedCheckpoint, read_packed
from taqmlx.store.quant_config import QuantConfig, read_quant_config


class Source(NamedTuple):
    """Source of quantized layers: the checkpoint, the config if there is one, and the layers to quantize."""

    checkpoint: PackedCheckpoint
    config: QuantConfig | None
    layers: list[Layer]


def open_source(weights: Path | None, quant_config: Path | None, model: Model, layers: list[Layer]) -> Source | None:
    """The source that quantizes `layers`, or None if neither file is named.

    Raises UserError if it is missing, damaged or of another model.
    """
    config = read_quant_config(quant_config) if quant_config else None
    folder = weights or (config and config.weights.parent)
    if folder is None:
        return None
    checkpoint = read_packed(folder)
    if config and checkpoint.config["model"]["sha256"] != config.content["weights"]["sha256"]:
        raise UserError(f"{folder} is not what {quant_config} was made with; leave --weights out")
    made_from = {name: digest for name, digest in checkpoint.config["origin"]["model"].items() if name != FOLDS}
    if made_from != model.file_digests():
        raise UserError(f"{folder} was made of other weights than those of this model; make it again")
    return Source(checkpoint, config, layers)


def describe_precision(source: Source) -> str:
    """The bits of most quantized weights and of their inputs, as W4A8."""
    packed = list_packed(source.layers, source.checkpoint)
    inputs = [source.config.find_input(layer.name).bits for layer in packed if source.config]
    return name_precision([source.checkpoint.find_bits(layer.path) for layer in packed], inputs)


def describe_source(name: str, source: Source, count: int) -> str:
    """One line: the quantized layers and which part is simulated."""
    packed = len(list_packed(source.layers, source.checkpoint))
    line = f"{name}: weights of {packed} of {count} linear layers from {source.checkpoint.path}; activations "
    if source.config is None:
        return f"{line}in full precision"
    rounded = sum(source.config.layers[layer.name]["activation"]["policy"] != "none" for layer in source.layers)
    return f"{line}of {rounded} quantized, simulated in floating point"


def tabulate_differences(source: Source, transformer: Transformer) -> list[str]:
    """The lines of a table: error dW = W' - W of each quantized weight W' against the original W."""
    original = dict(tree_flatten(transformer.parameters()))
    lines = [f"{'layer':<34}{'bits':>5}{'group':>7}{'mean |dW|':>12}{'max |dW|':>12}{'|dW|2/|W|2':>13}"]
    for layer in list_packed(source.layers, source.checkpoint):
        weight = restore_weight(source.checkpoint, layer.path)
        found = compare_weights(weight, np.array(original[f"{layer.path}.weight"]))
        group = source.checkpoint.config["quantization"][layer.path]["group_size"]
        lines.append(
            f"{layer.name:<34}{source.checkpoint.find_bits(layer.path):>5}{group:>7}{found['mean']:>12.6f}"
            f"{found['max']:>12.6f}{found['relative_db']:>10.1f} dB"
        )
    return lines
