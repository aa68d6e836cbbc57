"""Linear layers of a model with weights and inputs quantized as in its block files."""

from collections.abc import Sequence

from taqmlx.mmdit.quantized import QuantizedLinears
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.sigma_lookup import DEFAULT_LOOKUP
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.reconstruction.propagation import dequantize_block, restore_biases
from taqmlx.store.block_file import BlockFile


def bind_blocks(model: Transformer, files: Sequence[BlockFile]) -> QuantizedLinears:
    """Linear layers of `model`: quantized as in `files` for their blocks, in full precision elsewhere."""
    layers = list_layers(model)
    weights, biases = read_weights(model, layers)
    inputs: dict[str, InputQuantizer] = {}
    for file in files:
        weights |= dequantize_block(model, file)
        biases |= restore_biases(file)
        inputs |= {name: file.find_input(name) for name in file.seal["parameters"]["layers"]}
    return QuantizedLinears(layers, weights, biases, inputs, files[0].sigmas, DEFAULT_LOOKUP)
