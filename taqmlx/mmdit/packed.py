"""Models with weights from a packed checkpoint: linear layers, and dequantized weights."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.forward import resolve_bias
from taqmlx.mmdit.quantized import PackedWeight, QuantizedLinears
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.weight_grid import Grid, dequantize, unpack_codes
from taqmlx.planning.layer_rules import UNQUANTIZED, read_scale_dtype
from taqmlx.planning.layers import Layer
from taqmlx.store.block_inputs import FOLDS
from taqmlx.store.errors import UserError
from taqmlx.store.packed_checkpoint import PackedCheckpoint
from taqmlx.store.quant_config import QuantConfig

NO_TABLES = np.ones(1)  # noise levels where no step size depends on them


def list_packed(layers: Sequence[Layer], checkpoint: PackedCheckpoint) -> list[Layer]:
    """Layers of `layers` with a quantized weight in the checkpoint."""
    return [layer for layer in layers if layer.path in checkpoint.config["quantization"]]


def bind_packed(
    model: Transformer,
    layers: Sequence[Layer],
    chosen: Sequence[Layer],
    checkpoint: PackedCheckpoint,
    config: QuantConfig | None,
    lookup: str,
) -> QuantizedLinears:
    """Linear layers of `model`, all of its `layers`: the `chosen` ones quantized, the others in full precision.

    With `config`, the inputs of the chosen layers are quantized too, with step sizes looked up by `lookup`; without it
    they are only divided by the migration of the weights.
    """
    exact = {layer.name: resolve_module(model, layer.path)["weight"] for layer in layers}
    for layer in chosen:
        check_fit(checkpoint, config, layer, exact[layer.name].shape)
    packed = {layer.name: find_packed_weight(checkpoint, layer.path) for layer in list_packed(chosen, checkpoint)}
    biases = {layer.name: resolve_bias(model, layer) for layer in layers}
    if FOLDS in checkpoint.config["origin"].get("model", {}):
        exact.update(read_unquantized(checkpoint, layers, "weight"))
    biases.update(read_unquantized(checkpoint, [layer for layer in chosen if biases[layer.name] is not None], "bias"))
    inputs = {layer.name: describe_input(checkpoint, config, layer) for layer in chosen}
    sigmas = NO_TABLES if config is None else np.array(config.content["sigmas"])
    return QuantizedLinears(layers, {**exact, **packed}, biases, inputs, sigmas, lookup)


def read_unquantized(checkpoint: PackedCheckpoint, layers: Sequence[Layer], part: str) -> dict[str, mx.array]:
    """Weights that are not quantized, or biases, of a checkpoint, fp32; folds and learning change them."""
    quantized = checkpoint.config["quantization"] if part == "weight" else {}
    names = {layer.name: f"{layer.path}.{part}" for layer in layers if layer.path not in quantized}
    return {name: mx.array(checkpoint.tensors[key]).astype(mx.float32) for name, key in names.items()}


def check_fit(checkpoint: PackedCheckpoint, config: QuantConfig | None, layer: Layer, shape: tuple[int, ...]) -> None:
    """Raise UserError unless checkpoint and config match the weight of `layer`, of `shape` (out, in)."""
    how, tensors = checkpoint.config["quantization"].get(layer.path), checkpoint.tensors
    if how:
        scales = tensors[f"{layer.path}.scales"]
        if shape != (len(scales), scales.shape[1] * how["group_size"]):
            raise UserError(f"{checkpoint.path}: {layer.path} is not of the model's shape {shape}; pack it again")
    if config is None:
        return
    if layer.name not in config.layers:
        raise UserError(f"the quantization config has no layer {layer.name}; make it again")
    quantizer = config.find_input(layer.name)
    for given in (quantizer.shift, quantizer.migration):
        if given is not None and given.shape != shape[1:]:
            raise UserError(f"{layer.name}: the quantization config is made for {len(given)} channels, not {shape[1]}")


def find_packed_weight(checkpoint: PackedCheckpoint, path: str) -> PackedWeight:
    """Packed weight of the module at `path`."""
    how, tensors = checkpoint.config["quantization"][path], checkpoint.tensors
    stored = getattr(mx, read_scale_dtype(checkpoint.config))
    scales, biases = (mx.array(tensors[f"{path}.{part}"]).astype(stored) for part in ("scales", "biases"))
    return PackedWeight(mx.array(tensors[f"{path}.weight"]), scales, biases, how["bits"], how["group_size"])


def describe_input(checkpoint: PackedCheckpoint, config: QuantConfig | None, layer: Layer) -> InputQuantizer:
    """Migration and, with `config`, quantization of the input of `layer`."""
    quantizer = InputQuantizer() if config is None else config.find_input(layer.name)
    return replace(quantizer, migration=checkpoint.tensors.get(f"{layer.path}.migration"))


def restore_weight(checkpoint: PackedCheckpoint, path: str) -> np.ndarray:
    """Dequantized weight (out, in) fp32 of a packed layer, with its migration undone."""
    how, tensors = checkpoint.config["quantization"][path], checkpoint.tensors
    grid = Grid(tensors[f"{path}.scales"], tensors[f"{path}.biases"], how["bits"], how["group_size"])
    weight = dequantize(unpack_codes(tensors[f"{path}.weight"], how["bits"]), grid)
    migration = tensors.get(f"{path}.migration")
    return weight if migration is None else weight / migration.astype(np.float32)


def name_bits(bits: Sequence[int | tuple[int, ...]]) -> str:
    """Most frequent of `bits`; if noise levels differ, the range from fewest to most bits, without unquantized ones."""
    if all(isinstance(value, int) for value in bits):
        return str(Counter(bits or [UNQUANTIZED]).most_common(1)[0][0])
    widths = {int(width) for value in bits for width in np.atleast_1d(value)} - {UNQUANTIZED}
    return f"{min(widths)}-{max(widths)}"


def name_precision(weights: Sequence[int], inputs: Sequence[int | tuple[int, ...]]) -> str:
    """Most frequent bit widths of quantized layers' weights and inputs, as W4A8; with several input tiers, W4A4-8."""
    return f"W{name_bits(weights)}A{name_bits(inputs)}"
