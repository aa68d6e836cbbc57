"""Packed checkpoint: a folder with `model.safetensors` and `config.json`.

The tensors of a quantized layer are those of MLX's QuantizedLinear: `<path>.weight` uint32, `.scales` and `.biases`
fp16 (or bf16, with `scale_dtype` in the config), and its unchanged `.bias`. A layer with `<path>.migration` int32 (in,)
holds W diag(migration), so its input must be divided by the migration first: no MLX module has such a parameter, so a
strict load rejects it. All other tensors are of the type of the scales.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from taqmlx.numerics.stored_types import STORED_TYPES
from taqmlx.planning.checkpoint_documents import Affine, PackedConfig, PackedSizes
from taqmlx.planning.layer_rules import FLOAT16, UNQUANTIZED, read_scale_dtype
from taqmlx.store.errors import UserError
from taqmlx.store.files import find_named, hash_file, read_plain_json, reject_changed
from taqmlx.store.schemas import check_schema, load_schema
from taqmlx.store.tensors import read_tensors, reject_nonfinite, write_bfloat16, write_tensors

SCHEMA = load_schema("packed_checkpoint.schema.json")
FORMAT, VERSION = (SCHEMA["properties"][key]["const"] for key in ("format", "version"))
LONGEST_NAME = 80  # characters shown of a name
PARTS = ("weight", "scales", "biases", "migration")


@dataclass(frozen=True)
class PackedCheckpoint:
    """`config.json`, the tensors by DiffusionKit parameter name (no prefix), and their file."""

    config: PackedConfig
    tensors: dict[str, np.ndarray]
    path: Path

    def find_bits(self, path: str) -> int:
        """Nominal bits of the codes of the quantized layer at module path `path`."""
        bits: int = self.config["nominal_bits"].get(path, self.config["quantization"][path]["bits"])
        return bits


def write_packed_tensors(path: Path, tensors: dict[str, np.ndarray], scale_dtype: str) -> None:
    """Write the tensors of a checkpoint, with those of the stored type `scale_dtype`, atomically to `path`."""
    write = write_tensors if scale_dtype == FLOAT16 else write_bfloat16
    write(path, tensors, {"format": "mlx"})


def read_packed(folder: Path) -> PackedCheckpoint:
    """Read and check the checkpoint in `folder`. Raises UserError if it is missing, damaged, or of another format."""
    checkpoint = open_packed(folder)
    config, path = checkpoint.config, checkpoint.path
    if hash_file(path) != config["model"]["sha256"]:
        made = folder / "config.json"
        raise UserError(f"{path} is not the file that {made} was made with; delete both and run pack_weights again")
    for name in config["quantization"]:
        for fault in find_misfits(checkpoint, name):
            raise UserError(f"{path}: {name}: {fault}; run pack_weights again")
    reject_nonfinite(path, checkpoint.tensors, f"delete {folder} and run pack_weights again")
    return checkpoint


def open_packed(folder: Path) -> PackedCheckpoint:
    """Read the checkpoint in `folder` without checks. Raises UserError if its config or its tensors cannot be read."""
    config = read_packed_config(folder)
    path = find_named(folder / "config.json", config["model"]["file"])
    return PackedCheckpoint(config, read_packed_tensors(path, config["prefix"]), path)


def read_packed_config(folder: Path) -> PackedConfig:
    """Read `config.json` of a packed checkpoint. Raises UserError if it is missing, damaged or of another format."""
    path = folder / "config.json"
    config = read_plain_json(path)
    found = (config.get("format"), config.get("version")) if isinstance(config, dict) else (None, None)
    if found != (FORMAT, VERSION):
        shown = [str(value)[:LONGEST_NAME] for value in found]
        raise UserError(
            f"{path} has format {shown[0]}, version {shown[1]}, not {FORMAT}, {VERSION}; run pack_weights again"
        )
    config = reject_changed(path, config, "pack_weights")
    check_schema(config, SCHEMA, path)
    return cast(PackedConfig, config)


def read_packed_tensors(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """Read the tensors of a safetensors file, without `prefix`. Raises UserError if it is missing or damaged."""
    return {key.removeprefix(prefix): array for key, array in read_tensors(path).items()}


def find_misfits(checkpoint: PackedCheckpoint, path: str) -> Iterator[str]:
    """Yield the faults in dtypes, shapes and migration of one quantized layer's tensors."""
    tensors, how = checkpoint.tensors, checkpoint.config["quantization"][path]
    missing = [part for part in ("weight", "scales", "biases") if f"{path}.{part}" not in tensors]
    if missing:
        yield f"no {' and no '.join(missing)}"
        return
    weight, scales, biases = (tensors[f"{path}.{part}"] for part in ("weight", "scales", "biases"))
    stored = read_scale_dtype(checkpoint.config)
    right = np.dtype(STORED_TYPES[stored].array)
    if (weight.dtype, scales.dtype, biases.dtype) != (np.dtype(np.uint32), right, right):
        found = f"weight {weight.dtype}, scales {scales.dtype}, biases {biases.dtype}"
        yield f"{found}, not uint32 and twice {stored}"
    if scales.ndim != 2:
        yield f"scales {scales.shape} are not a matrix"
        return
    width = scales.shape[1] * how["group_size"]
    if weight.shape != (len(scales), width * how["bits"] // 32) or biases.shape != scales.shape or not weight.size:
        yield (
            f"weight {weight.shape}, scales {scales.shape} and biases {biases.shape}"
            f" are not those of {how['bits']} bits in groups of {how['group_size']}"
        )
    if (path in checkpoint.config["migrated"]) != (f"{path}.migration" in tensors):
        yield "only one of config.json and the file has a migration"
    migration = tensors.get(f"{path}.migration", np.ones(width, np.int32))
    if migration.shape != (width,) or migration.dtype != np.int32 or np.any(migration < 1):
        yield f"its migration is not {width} integers of at least 1"


def measure_tensors(tensors: dict[str, np.ndarray], quantization: dict[str, Affine]) -> PackedSizes:
    """Summary of `tensors`: `bits_per_weight`, `quantized_weights` and `parameters`, the share of each stored bit
    width.

    `bits_per_weight` counts all tensors of the quantized weights, including scales and biases; without any it is 16.
    """
    counts: Counter[int] = Counter()
    stored = 0
    for path, how in quantization.items():
        counts[how["bits"]] += tensors[f"{path}.weight"].size * 32 // how["bits"]
        stored += sum(count_bytes(tensors[key]) for part in PARTS if (key := f"{path}.{part}") in tensors)
    quantized = counts.total()
    of_layers = {f"{path}.{part}" for path in quantization for part in PARTS}
    counts[UNQUANTIZED] += sum(array.size for key, array in tensors.items() if key not in of_layers)
    return {
        "bits_per_weight": 8 * stored / quantized if quantized else float(UNQUANTIZED),
        "quantized_weights": quantized,
        "parameters": {str(bits): count / counts.total() for bits, count in sorted(counts.items())},
    }


def count_bytes(array: np.ndarray) -> int:
    """Bytes of a tensor as stored; float32 arrays hold bf16 values."""
    return array.nbytes // 2 if array.dtype == np.float32 else array.nbytes
