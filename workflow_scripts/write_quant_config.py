"""Write the quantization config: every layer's weight and activation quantization, and what it was made from."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from workflow_scripts import plan
from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.mmdit.layers import Layer, list_linears
from workflow_scripts.numerics.activation import compute_ranges, compute_step
from workflow_scripts.numerics.layer_rules import UNQUANTIZED, find_rule
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file, read_json, write_json
from workflow_scripts.store.quant_config import FORMAT, VERSION, check_file, read_quant_config
from workflow_scripts.store.seal import read_group_seal
from workflow_scripts.store.statistics_file import read_statistics_arrays
from workflow_scripts.store.tensors import write_tensors

UNQUANTIZED_WEIGHT = {"bits": UNQUANTIZED, "group_size": None, "mode": None}


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params)
    statistics = read_json(arguments.statistics)
    checkpoint = read_json(arguments.quantized / "config.json")
    seal = read_group_seal(arguments.calibration)
    check_origins(parameters, statistics, checkpoint, seal, arguments)
    layers, arrays = describe_layers(parameters, statistics, checkpoint, read_shifts(arguments.statistics, statistics))
    arrays_path = arguments.out.with_suffix(".safetensors")
    write_tensors(arrays_path, arrays)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": parameters["model"],
        "sigmas": statistics["sigmas"],
        "weights": describe_weights(arguments.quantized, checkpoint, arguments.out.parent),
        "arrays": {"file": arrays_path.name, "sha256": hash_file(arrays_path)},
        "layers": layers,
        "realization": {"weights": "packed", "activations": "simulated"},
        "origin": describe_origin(parameters, statistics, checkpoint, seal),
    }
    write_json(arguments.out, content)
    read_quant_config(arguments.out)
    quantized = sum(layer["activation"]["policy"] != "none" for layer in layers.values())
    log.info(f"{len(layers)} layers, activations of {quantized} quantized, in {arguments.out}")


def check_origins(
    parameters: plan.Parameters, statistics: dict, checkpoint: dict, seal: dict, arguments: argparse.Namespace
) -> None:
    """Raise UserError unless statistics and checkpoint belong to this model and to this calibration set."""
    for path, model in ((arguments.statistics, statistics["model"]), (arguments.quantized, checkpoint["architecture"])):
        if model != parameters["model"]:
            raise UserError(f"{path} is of the model {model}, not {parameters['model']}; make it again")
    if statistics["origin"]["calibration"] != seal["fingerprint"]:
        raise UserError(
            f"{arguments.statistics} was not made from {arguments.calibration}; run merge_activations again"
        )
    check_file(arguments.quantized / checkpoint["model"]["file"], checkpoint["model"]["sha256"], arguments.quantized)


def read_shifts(path: Path, statistics: dict) -> dict[str, np.ndarray]:
    """The shift of each input that has one, float32 (D,)."""
    suffix = "/shift"
    arrays = read_statistics_arrays(path, statistics)
    return {key.removesuffix(suffix): value for key, value in arrays.items() if key.endswith(suffix)}


def describe_layers(
    parameters: plan.Parameters, statistics: dict, checkpoint: dict, shifts: dict[str, np.ndarray]
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Every layer's entry by name, and the arrays the entries name."""
    entries, arrays = {}, {}
    for layer in list_linears(*plan.MODEL_BLOCKS[parameters["model"]]):
        rule = find_rule(parameters["activations"], layer.name)
        activation, own = describe_activation(layer, rule, statistics["inputs"][layer.input], shifts.get(layer.input))
        weight = checkpoint["quantization"].get(layer.path, UNQUANTIZED_WEIGHT)
        entries[layer.name] = {"path": layer.path, "weight": weight, "activation": activation}
        arrays |= own
    return entries, arrays


def describe_activation(
    layer: Layer, rule: dict[str, Any], observed: dict, shift: np.ndarray | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One layer's activation entry and its arrays; steps are for what is left after the shift, where there is one."""
    if rule["bits"] == UNQUANTIZED:
        return {"policy": "none", "bits": UNQUANTIZED}, {}
    entry = {"policy": rule["policy"], "bits": rule["bits"]}
    if rule["policy"] == "dynamic":
        return entry, {}
    ranges = compute_ranges(observed["per_step"], rule["range"], shift is not None)
    steps = compute_step(ranges, rule["bits"])
    entry |= {"range": rule["range"] if shift is None else "absmax", "shift": None}
    arrays = {}
    if shift is not None:
        entry["shift"] = f"{layer.name}/shift"
        arrays[entry["shift"]] = shift
    if rule["policy"] == "static":
        return entry | {"step": float(steps.max())}, arrays
    entry["steps"] = f"{layer.name}/steps"
    return entry, arrays | {entry["steps"]: steps}


def describe_weights(folder: Path, checkpoint: dict, base: Path) -> dict[str, Any]:
    """The packed checkpoint, by names relative to `base`."""
    place = Path(os.path.relpath(folder, base))
    return {
        "file": (place / checkpoint["model"]["file"]).as_posix(),
        "sha256": checkpoint["model"]["sha256"],
        "config": (place / "config.json").as_posix(),
        "bits_per_weight": checkpoint["bits_per_weight"],
    }


def describe_origin(parameters: plan.Parameters, statistics: dict, checkpoint: dict, seal: dict) -> dict[str, Any]:
    """Fingerprints of what the config was made from."""
    return {
        "parameters": parameters,
        "calibration": {"fingerprint": seal["fingerprint"], "inputs": seal["inputs"]},
        "statistics": {"fingerprint": plan.fingerprint(statistics)},
        "model": checkpoint["origin"],
    }


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "statistics", "quantized", "calibration", "out"))
