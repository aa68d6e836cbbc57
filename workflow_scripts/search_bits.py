"""Choose the bits and the group size of every layer's weight: the least error of the guided velocity within a size.

Errors are those of GPTQ's codes, estimated from gradients (`mmdit/weight_costs.py`) and added up over layers. The size
is that of all linear layers, scales and zero points included: `bits_per_weight`, or without one that of the rules.
"""

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from workflow_scripts import plan
from workflow_scripts.entry import Progress, build_parser, log, run
from workflow_scripts.mmdit.block_assembly import read_weights
from workflow_scripts.mmdit.calibration_points import CalibrationPoints, read_points, split_runs
from workflow_scripts.mmdit.footprint import check_forward
from workflow_scripts.mmdit.layer_hessians import accumulate_hessians, measure_rank
from workflow_scripts.mmdit.layers import Layer, list_linears
from workflow_scripts.mmdit.weight_costs import group_layers, measure_costs, round_choices
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.numerics.bit_choices import PROBE_POINTS, Choice
from workflow_scripts.numerics.bit_search import Option, count_stored_bits, search_sizes, write_rules
from workflow_scripts.numerics.layer_rules import UNQUANTIZED, find_rule
from workflow_scripts.numerics.selection import choose_spread_points
from workflow_scripts.numerics.weight_grid import fit_group_size
from workflow_scripts.store.calibration import open_calibration
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import read_json, write_json
from workflow_scripts.store.mixed_bits import FORMAT

TOGETHER = 32  # points of a forward, at most
Costs = dict[str, dict[Choice, float]]


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params, stage="search_bits")
    calibration = open_calibration(arguments.calibration)
    calibration.verify()
    model = find_model(parameters["model"], parameters)
    transformer, points = model.load_transformer(), read_points(calibration)
    layers = list_linears(*plan.MODEL_BLOCKS[parameters["model"]])
    weights, _ = read_weights(transformer, layers)
    rules = {layer.name: find_rule(parameters["weights"], layer.name) for layer in layers}
    searched = [layer for layer in layers if rules[layer.name]["bits"] != UNQUANTIZED]
    refuse_unfit(searched, weights, rules)
    conditions, tokens = calibration.specs["cs"].shape[1:3]
    check_forward(transformer, model.LATENT_SHAPE, tokens, conditions * TOGETHER, "searching bits")
    cfg_scale = calibration.seal["parameters"]["cfg_scale"]
    costs, ranks = measure(parameters, transformer, points, searched, weights, rules, cfg_scale)
    elements = {name: weight.size for name, weight in weights.items()}
    content = search(parameters, rules, costs, elements) | {
        "ranks": ranks,
        "origin": {"model": model.file_digests(), "calibration": calibration.seal["fingerprint"]},
    }
    write_json(arguments.out, FORMAT | content)
    report(content, arguments.out)


def refuse_unfit(layers: list[Layer], weights: dict[str, mx.array], rules: dict[str, dict[str, Any]]) -> None:
    """Raise UserError if there is no layer to search, or one whose width no group size fits."""
    if not layers:
        raise UserError("weights: all layers have 16 bits, so there are none to choose; lower some")
    for layer in layers:
        try:
            fit_group_size(weights[layer.name].shape[1], rules[layer.name]["group_size"])
        except ValueError as error:
            raise UserError(f"weights: {layer.name}: {error}; give it another, or 16 bits") from None


def measure(
    parameters: plan.Parameters,
    transformer: Any,
    points: CalibrationPoints,
    layers: list[Layer],
    weights: dict[str, mx.array],
    rules: dict[str, dict[str, Any]],
    cfg_scale: float,
) -> tuple[Costs, dict[str, int]]:
    """The costs of every choice by layer, and the effective rank of every input by its name."""
    steps = np.unique(points.sigmas, return_inverse=True)[1]
    chosen = choose_spread_points(steps, points.prompts, parameters["search_points"], parameters["seed"])
    rng = np.random.default_rng(parameters["seed"])
    probes = [rng.choice(chosen, min(PROBE_POINTS, len(chosen)), replace=False)]
    probes += [rng.choice(chosen, len(probes[0]), replace=False) for _ in range(parameters["search_probes"] - 1)]
    progress = Progress("search_bits", len(layers), "layers")
    costs: Costs = {}
    ranks: dict[str, int] = {}
    for group in group_layers(layers, weights):
        batches = (points.take(run) for run in split_runs(chosen, TOGETHER))
        hessians = accumulate_hessians(transformer, group, batches)
        ranks |= {name: measure_rank(hessian) for name, hessian in hessians.items()}
        changes = {}
        for layer in group:
            name = layer.name
            try:
                changes[name] = round_choices(
                    weights[name], rules[name], hessians[layer.input], parameters["gptq_damping"]
                )
            except ValueError as error:
                raise UserError(f"{name}: {error}") from error
            progress.advance()
        costs |= measure_costs(transformer, points, probes, changes, cfg_scale, parameters["seed"])
    return costs, ranks


def search(
    parameters: plan.Parameters, rules: dict[str, dict[str, Any]], costs: Costs, elements: dict[str, int]
) -> dict[str, Any]:
    """What the file has: the best choices within the size, and beside them the best single one. Raises UserError."""
    total = sum(elements.values())
    plain = UNQUANTIZED * sum(count for name, count in elements.items() if name not in costs)
    budget = (parameters["bits_per_weight"] or count_stored_bits(rules, elements)) * total - plain
    options = {
        name: [Option(choice, cost, choice.bits_per_weight * elements[name]) for choice, cost in own.items()]
        for name, own in costs.items()
    }
    try:
        found = search_sizes(options, budget)
    except ValueError:
        least = (plain + sum(min(option.size for option in own) for own in options.values())) / total
        raise UserError(
            f"bits_per_weight: {parameters['bits_per_weight']:g} bits are too few, with scales and zero points"
            f" {least:.3g} is the least possible; raise it to {np.ceil(least * 100) / 100:g} or more"
        ) from None
    described = {
        name: {
            "bits_per_weight": float((plain + sum(option.size for option in own.values())) / total),
            "predicted": float(sum(option.cost for option in own.values())),
            "layers": {layer: option.choice._asdict() for layer, option in own.items()},
        }
        for name, own in found.items()
    }
    chosen = {name: rules[name] | own for name, own in described["mixed"]["layers"].items()}
    return {
        "model": parameters["model"],
        "budget": (budget + plain) / total,
        "parameters": parameters,
        **described,
        "rules": write_rules(parameters["weights"], list(rules), chosen),
    }


def report(content: dict[str, Any], path: Path) -> None:
    """Say what was found."""
    for name in ("uniform", "mixed"):
        found = content[name]
        if found["layers"]:
            log.info(
                f"{name:<7} {found['bits_per_weight']:.3f} bits per weight, velocity predicted"
                f" {-10 * np.log10(found['predicted']):.2f} dB"
            )
    log.info(f"{len(content['mixed']['layers'])} layers in {len(content['rules'])} rules: {path}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "calibration", "out"))
