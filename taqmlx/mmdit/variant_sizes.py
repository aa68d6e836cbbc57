"""Size of the linear layers of each variant: full precision, blocks, packed weights, or a quantization config."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.packed import name_precision
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.planning.bit_choices import stored_bits
from taqmlx.planning.evaluation_documents import VariantSize
from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.planning.layers import Layer
from taqmlx.store.block_file import LayerWeight, read_block
from taqmlx.store.packed_checkpoint import PARTS, read_packed
from taqmlx.store.quant_config import read_quant_config


class Sizes(NamedTuple):
    """Sizes by layer name. stored: bytes of each quantized layer; widths: bits of its weight; inputs: of its input."""

    stored: dict[str, int]
    widths: dict[str, int]
    inputs: dict[str, list[int]]


def measure_variant(model: Transformer, source: str, files: Sequence[Path]) -> VariantSize:
    """Weight sizes of all linear layers of `model` under a source's files.

    Returns `weights`, `bytes`, `bits_per_weight`, `quantized_layers`, `activation_bits` (the input bit widths of the
    quantized layers) and `precision` (the most frequent bit widths, as W4A8).

    A layer that is not quantized counts UNQUANTIZED bits per weight. Raises UserError for missing or damaged files.
    """
    layers = list_layers(model)
    counts = {layer.name: resolve_module(model, layer.path)["weight"].size for layer in layers}
    sizes = READERS[source](layers, files)
    total = sum(sizes.stored.get(name, count * UNQUANTIZED // 8) for name, count in counts.items())
    inputs = [sizes.inputs.get(name, [UNQUANTIZED]) for name in sizes.stored]
    return {
        "weights": sum(counts.values()),
        "bytes": total,
        "bits_per_weight": 8 * total / sum(counts.values()),
        "quantized_layers": len(sizes.stored),
        "activation_bits": sorted({bits for widths in inputs for bits in widths}) or [UNQUANTIZED],
        "precision": name_precision(
            list(sizes.widths.values()), [own[0] if len(own) == 1 else tuple(own) for own in inputs]
        ),
    }


def read_none(layers: Iterable[Layer], files: Sequence[Path]) -> Sizes:
    """Sizes of a model without quantized layers."""
    return Sizes({}, {}, {})


def read_blocks(layers: Iterable[Layer], files: Sequence[Path]) -> Sizes:
    """Sizes from block files."""
    blocks = [read_block(path) for path in files]
    stored = {name: count_bytes(weight) for block in blocks for name, weight in block.weights.items()}
    rules = {name: rule for block in blocks for name, rule in block.seal["parameters"]["layers"].items()}
    widths = {name: weight.grid.bits for block in blocks for name, weight in block.weights.items()}
    return Sizes(stored, widths, {name: [rule["activation"]["bits"]] for name, rule in rules.items()})


def count_bytes(weight: LayerWeight) -> int:
    """Bytes of a weight's packed codes, scales and zero points."""
    return (
        weight.codes.size * stored_bits(weight.grid.bits) // 8 + weight.grid.scales.nbytes + weight.grid.biases.nbytes
    )


def read_weights(layers: Iterable[Layer], files: Sequence[Path]) -> Sizes:
    """Sizes from a packed checkpoint."""
    checkpoint = read_packed(files[0].parent)
    names = {layer.path: layer.name for layer in layers}
    stored = {
        names[path]: sum(
            checkpoint.tensors[key].nbytes for part in PARTS if (key := f"{path}.{part}") in checkpoint.tensors
        )
        for path in checkpoint.config["quantization"]
    }
    widths = {names[path]: checkpoint.find_bits(path) for path in checkpoint.config["quantization"]}
    return Sizes(stored, widths, {})


def read_config(layers: Iterable[Layer], files: Sequence[Path]) -> Sizes:
    """Sizes from the packed checkpoint that a quantization config names, and input bits from the config."""
    config = read_quant_config(files[0])
    bits = {name: layer["activation"]["bits"] for name, layer in config.layers.items()}
    inputs = {name: found if isinstance(found, list) else [found] for name, found in bits.items()}
    return read_weights(layers, [config.weights])._replace(inputs=inputs)


READERS: dict[str, Callable[[Iterable[Layer], Sequence[Path]], Sizes]] = {
    "none": read_none,
    "blocks": read_blocks,
    "weights": read_weights,
    "quant_config": read_config,
    "multitier": read_config,
}
