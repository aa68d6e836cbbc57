"""Linear layers of a model with weights and inputs quantized as in its block files."""

from collections.abc import Sequence

import numpy as np

from taqmlx.mmdit.quantized import InputGrid, QuantizedLinears
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.knots import DEFAULT_LOOKUP
from taqmlx.planning.layer_rules import UNQUANTIZED, InputRule
from taqmlx.planning.layers import list_linears
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.reconstruction.propagation import dequantize_block
from taqmlx.store.block_file import BlockFile
from taqmlx.store.errors import UserError


def bind_blocks(model: Transformer, files: Sequence[BlockFile]) -> QuantizedLinears:
    """Linear layers of `model`: quantized as in `files` for their blocks, in full precision elsewhere."""
    layers = list_linears(model.config.depth_multimodal, model.config.depth_unified)
    weights, biases = read_weights(model, layers)
    inputs = {}
    for file in files:
        weights |= dequantize_block(model, file)
        for name, rules in file.seal["parameters"]["layers"].items():
            inputs[name] = describe_input(rules["activation"], file, name)
    return QuantizedLinears(layers, weights, biases, inputs, files[0].sigmas, DEFAULT_LOOKUP)


def describe_input(rule: InputRule, file: BlockFile, name: str) -> InputGrid:
    """Quantizer of a layer input, from its rule and its block file. Raises UserError if the file lacks step sizes."""
    if rule["bits"] == UNQUANTIZED:
        return InputGrid(UNQUANTIZED, "none")
    if rule["policy"] == "dynamic":
        return InputGrid(rule["bits"], "dynamic", group_size=rule["group_size"])
    if name not in file.inputs:
        raise UserError(f"{name}: the block file has no step sizes for its input; run optimise_block again")
    grid = file.inputs[name]
    return InputGrid(rule["bits"], rule["policy"], np.asarray(grid.steps), grid.shift, grid.migration)
