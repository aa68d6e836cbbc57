"""The packed checkpoint: a folder with `model.safetensors` and `config.json`.

Of a quantized layer the tensors are those of MLX's QuantizedLinear: `<path>.weight` uint32, `.scales` and `.biases`
fp16, and its `.bias` as it was. A layer with `<path>.migration` int32 (in,) holds W diag(migration), so its input has
to be divided first: no module of MLX has such a parameter, so a strict load refuses it. All else is fp16.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from workflow_scripts.numerics.layer_rules import UNQUANTIZED
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file, read_json
from workflow_scripts.store.tensors import read_tensors

SCHEMA = json.loads(Path(__file__).with_name("packed_checkpoint.schema.json").read_text(encoding="utf-8"))
FORMAT, VERSION = (SCHEMA["properties"][key]["const"] for key in ("format", "version"))
PARTS = ("weight", "scales", "biases", "migration")


@dataclass(frozen=True)
class PackedCheckpoint:
    """`config.json`, the tensors by the names of DiffusionKit's parameters (no prefix), and their file."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    path: Path


def read_packed(folder: Path) -> PackedCheckpoint:
    """The checkpoint in `folder`. Raises UserError if it is missing, damaged, changed, or of another format."""
    config = read_packed_config(folder)
    path = folder / config["model"]["file"]
    tensors = read_packed_tensors(path, config["prefix"])
    if hash_file(path) != config["model"]["sha256"]:
        raise UserError(f"{path} is not the file that {folder / 'config.json'} was made with; run pack_weights again")
    return PackedCheckpoint(config, tensors, path)


def read_packed_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a packed checkpoint. Raises UserError if it is missing, damaged or of another format."""
    path = folder / "config.json"
    config = read_json(path)
    found = (config.get("format"), config.get("version")) if isinstance(config, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise UserError(
            f"{path} is of format {found[0]}, version {found[1]}, not {FORMAT}, {VERSION}; run pack_weights again"
        )
    if error := best_match(Draft202012Validator(SCHEMA).iter_errors(config)):
        raise UserError(f"{path}: {'.'.join(map(str, error.absolute_path)) or 'the file'}: {error.message}")
    return config


def read_packed_tensors(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, without `prefix`. Raises UserError if it is missing or damaged."""
    return {key.removeprefix(prefix): array for key, array in read_tensors(path).items()}


def measure_tensors(tensors: dict[str, np.ndarray], quantization: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `tensors` hold: `bits_per_weight`, `quantized_weights` and `parameters`, the share at each stored width.

    `bits_per_weight` counts all tensors that stand for the quantized weights, grids included; without any it is 16.
    """
    counts, stored = Counter(), 0
    for path, how in quantization.items():
        counts[how["bits"]] += tensors[f"{path}.weight"].size * 32 // how["bits"]
        stored += sum(tensors[key].nbytes for part in PARTS if (key := f"{path}.{part}") in tensors)
    quantized = counts.total()
    of_layers = {f"{path}.{part}" for path in quantization for part in PARTS}
    counts[UNQUANTIZED] += sum(array.size for key, array in tensors.items() if key not in of_layers)
    return {
        "bits_per_weight": 8 * stored / quantized if quantized else float(UNQUANTIZED),
        "quantized_weights": quantized,
        "parameters": {str(bits): count / counts.total() for bits, count in sorted(counts.items())},
    }
