"""Read the quantization config: validation, and lookup by layer and noise level."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from taqmlx.numerics.activation import look_up_step
from taqmlx.numerics.input_quantizer import ARRAYS, InputQuantizer
from taqmlx.numerics.sigma_lookup import DEFAULT_LOOKUP, LOOKUPS
from taqmlx.numerics.token_rounding import PER_TOKEN
from taqmlx.planning.checkpoint_documents import ActivationEntry, LayerEntry, QuantConfigDocument
from taqmlx.store.errors import UserError
from taqmlx.store.files import find_named, hash_file, read_plain_json, reject_changed
from taqmlx.store.schemas import check_schema, load_schema
from taqmlx.store.tensors import read_tensors, reject_nonfinite

FORMAT, VERSION = "time-aware-quant-config", 2
SCHEMA = load_schema("quant_config.schema.json")
LONGEST_NAME = 80  # characters shown of a name
_RANGES = "its `scale` is an absmax, not a step size"
OTHER_FORMATS = {
    "per_timestep_quant_config_v3": _RANGES,
    "per_timestep_quant_config_v4": f"{_RANGES}, or a step size, depending on the program that wrote it",
    "adaround_v1": "it describes weights only",
    "taqdit_v1": "it describes weights only, and steps by index",
    "poly_v1": "it fits polynomials to the absmax",
    "lut_v1": "it tabulates the absmax, not a step size",
}


@dataclass(frozen=True)
class QuantConfig:
    """Quantization config and its arrays; `weights` is the packed checkpoint's path."""

    content: QuantConfigDocument
    arrays: dict[str, np.ndarray]
    weights: Path

    @property
    def layers(self) -> dict[str, LayerEntry]:
        """`path`, `weight` and `activation` by layer name."""
        return self.content["layers"]

    def find_input(self, layer: str) -> InputQuantizer:
        """Quantizer of the input of `layer`; the columns of its weight are already multiplied by the migration."""
        entry = self.layers[layer]["activation"]
        bits = entry["bits"]
        arrays: dict[str, np.ndarray] = {kind: self.arrays[name] for kind in ARRAYS if (name := entry.get(kind))}
        if "step" in entry:
            arrays["steps"] = np.array([entry["step"]], np.float32)
        return InputQuantizer(
            entry["policy"],
            bits if isinstance(bits, int) else tuple(bits),
            **arrays,
            group_size=entry.get("group_size", PER_TOKEN),
        )

    def activation_step(self, layer: str, sigma: float, lookup: str = DEFAULT_LOOKUP) -> float | None:
        """Step size of the input of `layer` at `sigma`; None for measured ones and unquantized inputs.

        Between noise levels of a table, the step size of the nearest one, or linear in sigma if `lookup` is
        "interpolated".
        """
        activation = self.layers[layer]["activation"]
        if activation["policy"] == "lut":
            weights = LOOKUPS[lookup](sigma, np.array(self.content["sigmas"]))
            return look_up_step(weights, self.arrays[activation["steps"]], activation["bits"])[0]
        step: float | None = activation.get("step")
        return step


def read_quant_config(path: Path) -> QuantConfig:
    """Read the config at `path` with its arrays.

    Raises UserError if it is of another format or version, does not fit the schema, or names a file that is missing or
    changed.
    """
    content = read_content(path)
    place = path.resolve() if path.is_symlink() else path  # references are relative to the real file
    find_named(place, content["weights"]["config"])
    weights, file = (find_named(place, named["file"]) for named in (content["weights"], content["arrays"]))
    check_file(weights, content["weights"]["sha256"], path)
    check_file(file, content["arrays"]["sha256"], path)
    arrays = read_tensors(file)
    check_arrays(content, arrays, path)
    reject_nonfinite(file, arrays, f"delete {path} and make both again")
    return QuantConfig(content, arrays, weights)


def read_content(path: Path) -> QuantConfigDocument:
    """Read the JSON of a config only. Raises UserError if it is damaged, of another format, or invalid."""
    content = read_plain_json(path)
    reject_other_formats(content, path)
    content = reject_changed(path, content, "write_quant_config")
    check_schema(content, SCHEMA, path)
    return cast(QuantConfigDocument, content)


def reject_other_formats(content: Any, path: Path) -> None:
    """Raise UserError unless `content` states this format and version."""
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        found = str(found)[:LONGEST_NAME]
        reason = OTHER_FORMATS.get(found, "its numbers may mean something else")
        raise UserError(f"{path} has format {found}, not {FORMAT}: {reason}; make it again with write_quant_config")
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has version {str(content.get('version'))[:LONGEST_NAME]}, and this program reads {VERSION};"
            " make it again"
        )


def describe_quantizer(name: str, quantizer: InputQuantizer) -> tuple[ActivationEntry, dict[str, np.ndarray]]:
    """Activation entry of the layer `name`, without its range, and its arrays by kind: inverse of `find_input`."""
    bits = quantizer.bits if isinstance(quantizer.bits, int) else list(quantizer.bits)
    entry: ActivationEntry = {"policy": quantizer.policy, "bits": bits}
    if quantizer.steps is None:
        if quantizer.policy != "none":
            entry["group_size"] = quantizer.group_size
        return entry, {}
    arrays: dict[str, np.ndarray] = {kind: a for kind in ARRAYS if (a := getattr(quantizer, kind)) is not None}
    entry["shift"], entry["migration"] = (f"{name}/{k}" if k in arrays else None for k in ("shift", "migration"))
    if quantizer.policy == "static":
        entry["step"] = float(arrays.pop("steps")[0])
    else:
        entry["steps"] = f"{name}/steps"
    return entry, arrays


def check_file(file: Path, sha256: str, config: Path) -> None:
    """Raise UserError unless `file` exists with the digest `sha256` given in `config`."""
    if not file.is_file():
        raise UserError(f"{file}, named in {config}, is missing; move both together, or make it again")
    if hash_file(file) != sha256:
        raise UserError(f"{file} is not the file that {config} was made with; delete it and make both again")


def check_arrays(content: QuantConfigDocument, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Raise UserError unless every referenced array exists and is valid.

    Each of `sigmas` needs a positive step size, and its own bits where they differ; a shift needs finite numbers, a
    migration integers of at least 1.
    """
    count = len(content["sigmas"])
    for name, layer in content["layers"].items():
        activation = layer["activation"]
        for kind in ARRAYS:
            key = activation.get(kind)
            if key and key not in arrays:
                raise UserError(f"{path}: {name}: the array {key} is not in {content['arrays']['file']}; make it again")
        if "steps" in activation:
            steps = arrays[activation["steps"]]
            if steps.shape != (count,) or not is_step(steps):
                raise UserError(f"{path}: {name}: needs a step size above zero for each of the {count} sigmas")
        if "step" in activation and not is_step(np.array([activation["step"]])):
            raise UserError(f"{path}: {name}: needs a step size that float32 holds above zero")
        if isinstance(activation["bits"], list) and len(activation["bits"]) != count:
            raise UserError(f"{path}: {name}: needs one number of bits, or one for each of the {count} sigmas")
        shift, migration = activation.get("shift"), activation.get("migration")
        if shift and not is_shift(arrays[shift]):
            raise UserError(f"{path}: {name}: the shift needs a finite number for each channel")
        if migration and not is_divisor(arrays[migration]):
            raise UserError(f"{path}: {name}: the migration needs integers of at least 1")


def is_step(steps: np.ndarray) -> bool:
    """True if all `steps` are real numbers that are positive and finite in float32."""
    with np.errstate(over="ignore"):
        rounded = steps.astype(np.float32) if np.issubdtype(steps.dtype, np.number) else np.zeros(1)
    return not np.iscomplexobj(steps) and bool(np.all((rounded > 0) & np.isfinite(rounded)))


def is_shift(shift: np.ndarray) -> bool:
    """True if `shift` is a vector of finite floating-point numbers."""
    return shift.ndim == 1 and np.issubdtype(shift.dtype, np.floating) and bool(np.all(np.isfinite(shift)))


def is_divisor(migration: np.ndarray) -> bool:
    """True if `migration` is a vector of integers of at least 1."""
    return migration.ndim == 1 and np.issubdtype(migration.dtype, np.integer) and bool(np.all(migration >= 1))
