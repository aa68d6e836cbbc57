"""Write a quantization config with 4-, 6- or 8-bit activations by layer and noise level, and the reasons.

Starts from the quantization config and keeps its weights, shifts and migrations. Bits are only ever reduced: an
unquantized input stays unquantized, and fewer bits stay as they are.
"""

import argparse
from pathlib import Path

import numpy as np

from taqmlx.numerics import tier_summary, tiers
from taqmlx.numerics.phases import PHASES
from taqmlx.numerics.tier_rules import Evidence, choose_bits
from taqmlx.planning import plan
from taqmlx.planning.checkpoint_documents import ActivationEntry, WeightsFile
from taqmlx.planning.documents import Inputs, Sensitivity, Statistics
from taqmlx.planning.evaluation_documents import Metrics
from taqmlx.planning.layer_rules import MEASURED_POLICIES, UNQUANTIZED
from taqmlx.planning.stages import WriteMultitier
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, name_below, write_json
from taqmlx.store.layer_errors import LayerErrors, list_layer_errors
from taqmlx.store.parameters import read_parameters
from taqmlx.store.quant_config import QuantConfig, read_quant_config
from taqmlx.store.sensitivity_file import read_sensitivities
from taqmlx.store.statistics_file import read_statistics, read_statistics_arrays
from taqmlx.store.tensors import write_tensors

NOTHING_KNOWN = {"clip": {}, "smoothquant_candidate": False, "smoothquant_levels": 0}


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(WriteMultitier, arguments.params)
    config = read_quant_config(arguments.config)
    statistics = read_statistics(arguments.statistics)
    blocks = read_sensitivities(arguments.sensitivity, parameters.model)
    check_origins(parameters, config, statistics, blocks, arguments)
    errors = list_layer_errors(blocks)
    extremes = read_statistics_arrays(arguments.statistics, statistics)
    evidence = gather_evidence(config, errors, extremes)
    chosen = {name: choose_bits(own, config.content["sigmas"], parameters) for name, own in evidence.items()}
    layers, arrays = dict(config.layers), dict(config.arrays)
    for name, (bits, _) in chosen.items():
        activation, own = narrow_activation(name, config, bits, evidence[name])
        layers[name], arrays = {**layers[name], "activation": activation}, arrays | own
    arrays_path = arguments.out.with_suffix(".safetensors")
    write_tensors(arrays_path, arrays)
    content = config.content | {
        "weights": move_weights(config, arguments),
        "arrays": {"file": arrays_path.name, "sha256": hash_file(arrays_path)},
        "layers": layers,
        "analysis": analyse(config, parameters, evidence, chosen, errors),
        "origin": config.content["origin"] | {"multitier": describe_origin(parameters, statistics, arguments)},
    }
    write_json(arguments.out, content)
    read_quant_config(arguments.out)
    log.info(f"{describe_summary(content['analysis']['summary'])}, in {arguments.out}")


def check_origins(
    parameters: WriteMultitier,
    config: QuantConfig,
    statistics: Statistics,
    blocks: dict[str, Sensitivity],
    arguments: argparse.Namespace,
) -> None:
    """Raise UserError unless all files are of one model and run, the config has one bit width per layer, and the output
    is another file.
    """
    model = parameters.model
    if arguments.out.resolve().with_suffix("") == arguments.config.resolve().with_suffix(""):
        raise UserError(f"--out {arguments.out} is the config that is read; give it another name")
    for path, found in ((arguments.config, config.content["model"]), (arguments.statistics, statistics["model"])):
        if found != model:
            raise UserError(f"{path} belongs to the model {found}, not {model}; make it again")
    if config.content["origin"].get("statistics") != {"fingerprint": plan.fingerprint(statistics)}:
        raise UserError(f"{arguments.config} was not made with {arguments.statistics}; run write_quant_config again")
    digests = next(iter(blocks.values()))["origin"]["model"]
    if difference := plan.describe_difference(digests, config.content["origin"]["model"]):
        raise UserError(
            f"{arguments.sensitivity[0]} is of other weights than {arguments.config} ({difference}); make both again"
        )
    if several := [name for name in config.layers if not isinstance(config.find_input(name).bits, int)]:
        raise UserError(
            f"{arguments.config} has several numbers of bits for {several[0]}; start from quant_config.json"
        )


def gather_evidence(config: QuantConfig, errors: LayerErrors, extremes: dict[str, np.ndarray]) -> dict[str, Evidence]:
    """Measured ranges and errors of every layer with a quantized input, by layer name."""
    sigmas, evidence = config.content["sigmas"], {}
    for layer in plan.list_layers(config.content["model"]):
        quantizer = config.find_input(layer.name)
        if quantizer.bits == UNQUANTIZED:
            continue
        channels = tiers.measure_channels(
            extremes[f"{layer.input}/minimum"],
            extremes[f"{layer.input}/maximum"],
            quantizer.shift,
            quantizer.migration,
        )
        measured = errors.inputs.get(layer.name, {})
        evidence[layer.name] = Evidence(
            quantizer.bit_width,
            quantizer.policy,
            channels,
            {bits: tiers.move_to_knots(tier.errors, tier.sigmas, sigmas) for bits, tier in measured.items()},
            {bits: tier.clip for bits, tier in measured.items()},
            {bits: tier.inside for bits, tier in measured.items()},
            quantizer.shift is not None,
        )
    return evidence


def narrow_activation(
    name: str, config: QuantConfig, bits: np.ndarray, evidence: Evidence
) -> tuple[ActivationEntry, dict[str, np.ndarray]]:
    """A layer's activation entry with `bits` (K,), and its step sizes if they are a table; all else is unchanged."""
    entry, own = config.layers[name]["activation"], evidence.own
    if np.all(bits == own):
        return entry, {}
    is_uniform = not np.ptp(bits)
    entry = entry | {"bits": int(bits[0]) if is_uniform else bits.tolist()}
    if entry["policy"] in MEASURED_POLICIES:
        return entry, {}
    steps = np.broadcast_to(config.find_input(name).step_sizes, len(bits))
    steps = tiers.narrow_steps(steps, own, bits, evidence.channels.max(axis=1), evidence.clips)
    entry["range"] = "clipped"
    if entry["policy"] == "static" and is_uniform:
        return entry | {"step": float(steps.max())}, {}
    entry.pop("step", None)
    return entry | {"policy": "lut", "steps": f"{name}/steps"}, {f"{name}/steps": steps}


def move_weights(config: QuantConfig, arguments: argparse.Namespace) -> WeightsFile:
    """The config's entry of its weights, with paths relative to the new config.

    Raises UserError if the weights are not below the new config's folder.
    """
    weights, (source, target) = config.content["weights"], (path.parent for path in (arguments.config, arguments.out))
    file, layout = (name_below(source / name, target) for name in (weights["file"], weights["config"]))
    return {**weights, "file": file, "config": layout}


def analyse(
    config: QuantConfig,
    parameters: WriteMultitier,
    evidence: dict[str, Evidence],
    chosen: dict[str, tuple[np.ndarray, str]],
    errors: LayerErrors,
) -> Metrics:
    """Reasons for the chosen bits, by layer and in total."""
    sigmas, rule = config.content["sigmas"], parameters.multitier_rule
    limits: dict[str, Metrics] = {
        "measured": {"budget_db": parameters.multitier_budget},
        "thresholds": {"thresholds": parameters.multitier_thresholds},
    }
    layers = {}
    for name in config.layers:
        bits, reason = chosen.get(name, (np.full(len(sigmas), UNQUANTIZED), "not rounded in the config it starts from"))
        layers[name] = {
            "phases": tier_summary.find_most_by_phase(bits, sigmas),
            "weight_bits": suggest_weight_bits(errors.weights.get(name), parameters),
            "reason": reason,
        } | (describe_evidence(evidence[name]) if name in evidence else NOTHING_KNOWN)
    return limits[rule] | {
        "rule": rule,
        "weight_budget_db": parameters.weight_budget,
        "phases": {name: list(ends) for name, ends in PHASES.items()},
        "layers": layers,
        "summary": summarise(evidence, {name: bits for name, (bits, _) in chosen.items()}),
    }


def suggest_weight_bits(errors: dict[int, float] | None, parameters: WriteMultitier) -> int | None:
    """The fewest of 2, 4, 6 and 8 bits for a layer's weight within the budget; None for an unquantized weight."""
    if errors is None:
        return None
    return int(tiers.take_fewest({bits: errors[bits] for bits in tiers.WEIGHT_BITS}, parameters.weight_budget))


def describe_evidence(evidence: Evidence) -> Metrics:
    """The clipping range with the least error for each bit width, and the number of noise levels with channel spikes,
    where SmoothQuant could help (not applied here).
    """
    clips = {
        str(bits): {"share": share, "inside_percent": 100 * evidence.inside[bits]}
        for bits, share in evidence.clips.items()
    }
    levels = int(tiers.find_spikes(evidence.channels).sum())
    return {"clip": clips, "smoothquant_candidate": levels > 0, "smoothquant_levels": levels}


def summarise(evidence: dict[str, Evidence], bits: dict[str, np.ndarray]) -> Metrics:
    """Summary of the chosen bits over the layers with quantized inputs."""
    widths = {name: own.channels.shape[1] for name, own in evidence.items()}
    return tier_summary.summarise_bits(bits, widths) | {
        "high_variability_layers": [
            name for name, own in evidence.items() if tier_summary.is_highly_variable(own.channels.max(axis=1))
        ],
        "smoothquant_layers": [name for name, own in evidence.items() if tiers.find_spikes(own.channels).any()],
    }


def describe_origin(parameters: WriteMultitier, statistics: Statistics, arguments: argparse.Namespace) -> Inputs:
    """Fingerprints of the inputs the bits were chosen from."""
    return {
        "parameters": parameters.encode(),
        "config": hash_file(arguments.config),
        "statistics": plan.fingerprint(statistics),
        "sensitivity": {path.stem: hash_file(path) for path in sorted(arguments.sensitivity)},
    }


def describe_summary(summary: Metrics) -> str:
    """One line: the share of each bit width, and the number of layers that change bits."""
    if not summary["total_layers"]:
        return "no activation is rounded, so no bits were taken away"
    shares = ", ".join(f"A{tier} {summary[f'a{tier}_percentage']:.1f} %" for tier in tiers.TIERS)
    return (
        f"{shares} of {summary['total_decisions']} decisions, {summary['mean_bits']:.2f} bits in the mean;"
        f" {len(summary['switching_layers'])} of {summary['total_layers']} layers change bits between noise levels"
    )


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "config", "statistics", "out")
    parser.add_argument("--sensitivity", type=Path, nargs="+", required=True, help="sensitivity files of the blocks")
    run(main, parser)
