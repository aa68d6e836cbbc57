"""Write the quantization config: weight and activation quantization of every layer, and the origin of the values."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taqmlx.numerics.activation import compute_ranges, compute_step
from taqmlx.numerics.input_quantizer import InputQuantizer, create_quantizer, has_steps, store_steps
from taqmlx.planning import plan
from taqmlx.planning.checkpoint_documents import ActivationEntry, Affine, LayerEntry, PackedConfig, WeightsFile
from taqmlx.planning.documents import Inputs, InputStatistics, Statistics
from taqmlx.planning.layer_rules import UNQUANTIZED, InputPattern, InputRule, find_input_rule
from taqmlx.planning.layers import AFTER_GELU, Layer
from taqmlx.planning.stages import WriteQuantConfig
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, name_below, write_json
from taqmlx.store.learned_inputs import Blocks, check_blocks, pick_inputs, read_blocks
from taqmlx.store.packed_checkpoint import read_packed_config
from taqmlx.store.parameters import read_parameters
from taqmlx.store.quant_config import FORMAT, VERSION, check_file, describe_quantizer, read_quant_config
from taqmlx.store.seal import Seal, read_group_seal
from taqmlx.store.statistics_file import read_statistics, read_statistics_arrays
from taqmlx.store.tensors import write_tensors

UNQUANTIZED_WEIGHT = {"bits": UNQUANTIZED, "group_size": None, "mode": None}
LEARNED = "learned"


class Observed(NamedTuple):
    """Statistics and learned parameters of the layer inputs.

    inputs: statistics by input name; shifts: float32 (in,) by input name, for the inputs that have one;
    learned: input quantizers from the block files, by layer name.
    """

    inputs: dict[str, InputStatistics]
    shifts: dict[str, np.ndarray]
    learned: dict[str, InputQuantizer]


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(WriteQuantConfig, arguments.params)
    statistics = read_statistics(arguments.statistics)
    checkpoint = read_packed_config(arguments.quantized)
    seal = read_group_seal(arguments.calibration)
    check_origins(parameters, statistics, checkpoint, seal, arguments)
    blocks = read_blocks(arguments.blocks)
    registry = plan.list_layers(parameters.model)
    check_blocks(blocks, parameters.activations, checkpoint, {layer.name: layer.path for layer in registry})
    observed = Observed(
        statistics["inputs"],
        read_shifts(arguments.statistics, statistics),
        pick_inputs(blocks, statistics["sigmas"]),
    )
    layers, arrays = describe_layers(registry, parameters.activations, checkpoint["quantization"], observed)
    arrays_path = arguments.out.with_suffix(".safetensors")
    write_tensors(arrays_path, arrays)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": parameters.model,
        "sigmas": statistics["sigmas"],
        "weights": describe_weights(arguments.quantized, checkpoint, arguments.out.parent),
        "arrays": {"file": arrays_path.name, "sha256": hash_file(arrays_path)},
        "layers": layers,
        "realization": {"weights": "packed", "activations": "simulated"},
        "origin": describe_origin(parameters, statistics, checkpoint, seal, blocks),
    }
    write_json(arguments.out, content)
    read_quant_config(arguments.out)
    activations = [layer["activation"] for layer in layers.values()]
    quantized = sum(entry["policy"] != "none" for entry in activations)
    learned = sum(entry.get("range") == LEARNED for entry in activations)
    log.info(
        f"{len(layers)} layers, inputs of {quantized} quantized, {learned} of them with learned step sizes,"
        f" in {arguments.out}"
    )


def check_origins(
    parameters: WriteQuantConfig,
    statistics: Statistics,
    checkpoint: PackedConfig,
    seal: Seal,
    arguments: argparse.Namespace,
) -> None:
    """Raise UserError unless statistics and checkpoint belong to this model and this calibration set."""
    for path, model in ((arguments.statistics, statistics["model"]), (arguments.quantized, checkpoint["architecture"])):
        if model != parameters.model:
            raise UserError(f"{path} belongs to the model {model}, not {parameters.model}; make it again")
    if statistics["origin"]["calibration"] != seal["fingerprint"]:
        raise UserError(
            f"{arguments.statistics} was not made from {arguments.calibration}; run merge_activations again"
        )
    check_file(arguments.quantized / checkpoint["model"]["file"], checkpoint["model"]["sha256"], arguments.quantized)


def read_shifts(path: Path, statistics: Statistics) -> dict[str, np.ndarray]:
    """Shifts by input name, float32 (D,), of the inputs that have one."""
    suffix = "/shift"
    arrays = read_statistics_arrays(path, statistics)
    return {key.removesuffix(suffix): value for key, value in arrays.items() if key.endswith(suffix)}


def describe_layers(
    layers: Sequence[Layer], rules: Sequence[InputPattern], weights: dict[str, Affine], observed: Observed
) -> tuple[dict[str, LayerEntry], dict[str, np.ndarray]]:
    """The entries of all layers by name, and the arrays they refer to."""
    entries: dict[str, LayerEntry] = {}
    arrays: dict[str, np.ndarray] = {}
    for layer in layers:
        activation, own = describe_activation(layer, find_input_rule(rules, layer.name), observed)
        weight = weights.get(layer.path, UNQUANTIZED_WEIGHT)
        entries[layer.name] = {"path": layer.path, "weight": weight, "activation": activation}
        arrays |= {f"{layer.name}/{kind}": array for kind, array in own.items()}
    return entries, arrays


def describe_activation(
    layer: Layer, rule: InputRule, observed: Observed
) -> tuple[ActivationEntry, dict[str, np.ndarray]]:
    """The activation entry of one layer, and its arrays by kind.

    Raises UserError if the rule asks for a migration that no block file provides.
    """
    learned = observed.learned.get(layer.name)
    if rule["bits"] != UNQUANTIZED and layer.role == AFTER_GELU and rule["migration"] and learned is None:
        raise UserError(
            f"activations: {layer.name} needs a migration, and no block file has one; quantize its weight and give"
            " its activations the policy lut or static, or set migration: false"
        )
    if not has_steps(rule):
        return describe_quantizer(layer.name, create_quantizer(rule))
    quantizer, covered = (learned, LEARNED) if learned else choose_from_statistics(layer, rule, observed)
    entry, arrays = describe_quantizer(layer.name, quantizer)
    return {**entry, "range": covered}, arrays


def choose_from_statistics(layer: Layer, rule: InputRule, observed: Observed) -> tuple[InputQuantizer, str]:
    """Quantizer that covers the observed range at each noise level, after any shift; and the range method."""
    shift = observed.shifts.get(layer.input) if rule["shift"] else None
    ranges = compute_ranges(observed.inputs[layer.input]["per_step"], rule["range"], shift is not None)
    steps = store_steps(compute_step(ranges, rule["bits"]), rule["policy"])
    return create_quantizer(rule, steps, shift), rule["range"] if shift is None else "absmax"


def describe_weights(folder: Path, checkpoint: PackedConfig, base: Path) -> WeightsFile:
    """The entry of the packed checkpoint, with paths relative to `base`.

    Raises UserError if the checkpoint is not below `base`.
    """
    return {
        "file": name_below(folder / checkpoint["model"]["file"], base),
        "sha256": checkpoint["model"]["sha256"],
        "config": name_below(folder / "config.json", base),
        "bits_per_weight": checkpoint["bits_per_weight"],
    }


def describe_origin(
    parameters: WriteQuantConfig, statistics: Statistics, checkpoint: PackedConfig, seal: Seal, blocks: Blocks
) -> Inputs:
    """Fingerprints of the config's inputs."""
    return {
        "parameters": parameters.encode(),
        "calibration": {"fingerprint": seal["fingerprint"], "inputs": seal["inputs"]},
        "statistics": {"fingerprint": plan.fingerprint(statistics)},
        "model": checkpoint["origin"]["model"],
        "blocks": {name: block.seal["fingerprint"] for name, (_, block) in blocks.items()},
    }


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "statistics", "quantized", "calibration", "out")
    parser.add_argument("--blocks", type=Path, nargs="*", default=[], help="block files")
    run(main, parser)
