"""Packing of quantized layers: their tensors in the checkpoint, and its description."""

from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.numerics import weight_grid
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.stored_types import STORED_TYPES
from taqmlx.planning.bit_choices import stored_bits
from taqmlx.planning.checkpoint_documents import Affine, PackedLayers
from taqmlx.planning.layer_rules import WeightRule
from taqmlx.store.block_file import LayerWeight, digest_codes
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file
from taqmlx.store.packed_checkpoint import measure_tensors, read_packed_tensors


class PackedLayer(NamedTuple):
    """A quantized layer: its tensors by part, nominal bits and group size."""

    tensors: dict[str, np.ndarray]
    bits: int
    group_size: int


def pack_layer(weight: LayerWeight, quantizer: InputQuantizer | None) -> PackedLayer:
    """The packed tensors of a weight; `quantizer`: of its input, if stored."""
    grid = weight.grid
    tensors = {"weight": weight_grid.pack_codes(weight.codes, grid.bits), "scales": grid.scales, "biases": grid.biases}
    if quantizer is not None and quantizer.is_migrated and quantizer.migration is not None:
        tensors["migration"] = quantizer.migration
    return PackedLayer(tensors, grid.bits, grid.group_size)


def fits_rule(grid: weight_grid.Grid, rule: WeightRule) -> bool:
    """True if `grid` has the bits and group size of `rule`."""
    return grid.bits == rule["bits"] and rule["group_size"] in (grid.group_size, "row")


def collect_tensors(
    weights: dict[str, mx.array], packed: dict[str, PackedLayer], scale_dtype: str
) -> dict[str, np.ndarray]:
    """The tensors of the checkpoint: those of the packed layers, and the remaining `weights` in the stored type."""
    tensors = {f"{path}.{part}": array for path, layer in packed.items() for part, array in layer.tensors.items()}
    return tensors | {key: convert_weight(key, value, scale_dtype) for key, value in weights.items()}


def convert_weight(key: str, value: mx.array, scale_dtype: str) -> np.ndarray:
    """`value` in the stored type. Raises UserError naming the tensor `key` if the result is not finite."""
    stored = STORED_TYPES[scale_dtype]
    converted = np.array(value.astype(getattr(mx, scale_dtype)).astype(mx.float32)).astype(stored.array)
    if not np.isfinite(converted).all():
        raise UserError(f"{key} has values that {stored.title} cannot hold, or none at all; check the model's weights")
    return converted


def describe_checkpoint(path: Path, prefix: str, packed: dict[str, PackedLayer]) -> PackedLayers:
    """Content of config.json: the `nn.quantize` parameters by module path, and sizes measured on the written file."""
    tensors = read_packed_tensors(path, prefix)
    quantization: dict[str, Affine] = {
        place: {"bits": stored_bits(layer.bits), "group_size": layer.group_size, "mode": "affine"}
        for place, layer in packed.items()
    }
    return {
        **measure_tensors(tensors, quantization),
        "quantization": quantization,
        "nominal_bits": {p: layer.bits for p, layer in packed.items() if layer.bits != quantization[p]["bits"]},
        "codes": {place: digest_codes(tensors[f"{place}.weight"]) for place in packed},
        "rounded": [],  # layers rounded by the packing itself, only in folders of earlier versions
        "migrated": [place for place, layer in packed.items() if "migration" in layer.tensors],
        "model": {"file": path.name, "sha256": hash_file(path), "bytes": path.stat().st_size},
    }
