"""Quantized block file: `<results>/adaround/mm_03.safetensors`, with its seal beside it.

Tensors, by layer name: `<layer>.weight` uint32, `.scales` and `.biases` fp16 (or float32 of bf16 values, with the rule
`scale_dtype`), in the layout of an MLX affine-quantized weight. A layer whose input is quantized with stored step sizes
also has `<layer>.steps` float32, (K,) per noise level or (1,) static, `.shift` float32 (in,) and `.migration` int32
(in,). `sigmas` float32 (K,) are the noise levels of the steps. The weight of a migrated layer is W diag(migration). A
layer whose bias was corrected has `<layer>.bias` (out,) of the type of the scales. So have all layers of the distilled
model, which are in one file, `<results>/distilled.safetensors`. The metadata entry `layers` gives bits and group size.
The seal's `sha256` has the digest of the file and, under `codes`, one digest per packed weight.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from taqmlx.numerics.input_quantizer import ARRAYS, InputQuantizer, create_quantizer, has_steps
from taqmlx.numerics.weight_grid import Grid, pack_codes, unpack_codes
from taqmlx.planning import plan
from taqmlx.planning.checkpoint_documents import Affine
from taqmlx.planning.documents import Inputs
from taqmlx.planning.layer_rules import InputRule
from taqmlx.store.block_report import name_report, read_report
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import hash_file
from taqmlx.store.seal import Seal, check_origin, read_file_seal, write_file_seal
from taqmlx.store.tensors import read_note, read_tensors, reject_nonfinite, write_tensors


@dataclass(frozen=True)
class LayerWeight:
    """Quantized weight: its grid and its codes uint8 (out, in)."""

    grid: Grid
    codes: np.ndarray


@dataclass(frozen=True)
class BlockFile:
    """Result of one block's job.

    weights and inputs, the quantizers with stored step sizes, are by layer name; sigmas (K,) are the noise levels of
    the steps; biases (out,) are those learned, if any, in the stored type of the scales.
    """

    weights: dict[str, LayerWeight]
    inputs: dict[str, InputQuantizer]
    sigmas: np.ndarray
    seal: Seal
    biases: dict[str, np.ndarray] = field(default_factory=dict)

    def find_input(self, name: str) -> InputQuantizer:
        """Quantizer of the input of layer `name`. Raises UserError if its rule needs step sizes that are not there."""
        if name in self.inputs:
            return self.inputs[name]
        rule: InputRule = self.seal["parameters"]["layers"][name]["activation"]
        if has_steps(rule):
            policy = rule["policy"]
            raise UserError(f"{name}: the block file has no step sizes for a {policy} policy; run optimise_block again")
        return create_quantizer(rule)


def digest_codes(packed: np.ndarray) -> str:
    """sha256 (hex) of a packed weight's bytes."""
    return hashlib.sha256(np.ascontiguousarray(packed, "<u4").data).hexdigest()


def write_block(
    path: Path,
    weights: dict[str, LayerWeight],
    inputs: dict[str, InputQuantizer],
    sigmas: np.ndarray,
    parameters: plan.Parameters,
    origin: Inputs,
    biases: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:
    """Write a block's file, then its seal. `origin` has the digests of the inputs."""
    tensors = {"sigmas": sigmas}
    for name, layer in weights.items():
        tensors[f"{name}.weight"] = pack_codes(layer.codes, layer.grid.bits)
        tensors |= {f"{name}.scales": layer.grid.scales, f"{name}.biases": layer.grid.biases}
    for name, quantizer in inputs.items():
        arrays = {key: getattr(quantizer, key) for key in ARRAYS}
        tensors |= {f"{name}.{key}": array for key, array in arrays.items() if array is not None}
    tensors |= {f"{name}.bias": bias for name, bias in biases.items()}
    layers = {name: {"bits": w.grid.bits, "group_size": w.grid.group_size} for name, w in weights.items()}
    write_tensors(path, tensors, {"layers": json.dumps(layers, sort_keys=True)})
    codes = {name: digest_codes(tensors[f"{name}.weight"]) for name in weights}
    write_file_seal(path, parameters, origin, codes=codes)


def read_block(path: Path) -> BlockFile:
    """Read the block at `path`. Raises UserError if it or its seal is missing or damaged."""
    seal = read_file_seal(path.with_suffix(".json"))
    tensors = read_tensors(path)
    if seal["sha256"].get(path.name) != hash_file(path):
        seal_path = path.with_suffix(".json")
        raise UserError(f"{path} does not match {seal_path}; delete both and run {name_stage(seal)} again")
    reject_nonfinite(path, tensors, f"delete {path} and run {name_stage(seal)} again")
    with report_damage(path):
        layers = read_note(path, "layers").items()
        weights = {name: read_weight(tensors, name, sizes) for name, sizes in layers}
        names = [key.removesuffix(".steps") for key in tensors if key.endswith(".steps")]
        rules = {name: seal["parameters"]["layers"][name]["activation"] for name in names}
        inputs = {
            name: create_quantizer(rule, *(tensors.get(f"{name}.{key}") for key in ARRAYS))
            for name, rule in rules.items()
        }
        biases = {key.removesuffix(".bias"): tensors[key] for key in tensors if key.endswith(".bias")}
        return BlockFile(weights, inputs, tensors["sigmas"], seal, biases)


def holds_block(path: Path, parameters: plan.Parameters, origin: Inputs) -> bool:
    """True if `path` holds a block made with `parameters` from `origin`, with seal and report; False if one of them is
    absent.

    Raises UserError if they are damaged or were made from something else.
    """
    if not all(place.exists() for place in (path, path.with_suffix(".json"), name_report(path))):
        return False
    check_origin(read_file_seal(path.with_suffix(".json")), path, parameters, origin)
    read_block(path)
    read_report(name_report(path))
    return True


def name_stage(seal: Seal) -> str:
    """Return the stage that made the file: `optimise_block` or `distil`."""
    stage: str = seal["parameters"]["stage"]
    return stage


def read_weight(tensors: dict[str, np.ndarray], name: str, sizes: Affine) -> LayerWeight:
    """Return the weight of layer `name`. Raises KeyError or ValueError if its tensors are missing or inconsistent."""
    grid = Grid(tensors[f"{name}.scales"], tensors[f"{name}.biases"], sizes["bits"], sizes["group_size"])
    codes = unpack_codes(tensors[f"{name}.weight"], grid.bits)
    shape = len(codes), codes.shape[1] // grid.group_size
    if grid.scales.shape != shape or grid.biases.shape != shape:
        raise ValueError(f"{name}: its codes are {codes.shape}, its scales {grid.scales.shape}")
    return LayerWeight(grid, codes)
