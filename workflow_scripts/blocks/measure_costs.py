"""Estimate the error of the guided velocity from rounding each layer's weight, for every width and group size.

The errors are those of GPTQ codes, estimated from gradients (`reconstruction/weight_costs.py`).
"""

import argparse
from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.calibration_points import CalibrationPoints, read_points, split_runs
from taqmlx.mmdit.footprint import check_search
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.selection import choose_spread_points
from taqmlx.planning import plan
from taqmlx.planning.bit_choices import GROUP_SIZES, PROBE_POINTS, Choice, Costs, limit_group, list_choices
from taqmlx.planning.layer_rules import UNQUANTIZED, WeightRule, find_weight_rule
from taqmlx.planning.layers import Layer
from taqmlx.planning.stage_demands import describe_nothing_to_search
from taqmlx.planning.stages import MeasureCosts
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.reconstruction.layer_hessians import accumulate_hessians, measure_rank
from taqmlx.reconstruction.layer_rounding import choose_damping
from taqmlx.reconstruction.weight_costs import Batches, choose_batches, estimate_costs, group_layers, round_choices
from taqmlx.runtime.entry import Progress, add_folds, build_parser, log, run
from taqmlx.store.calibration import open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.parameters import read_parameters
from taqmlx.store.weight_costs import write_costs


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(MeasureCosts, arguments.params)
    calibration = open_calibration(arguments.calibration)
    calibration.verify()
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    transformer, points = model.load_transformer(), read_points(calibration)
    layers = plan.list_layers(parameters.model)
    weights, _ = read_weights(transformer, layers)  # lazy: their shapes
    rules = {layer.name: find_weight_rule(parameters.weights, layer.name) for layer in layers}
    rounded = [layer for layer in layers if rules[layer.name]["bits"] != UNQUANTIZED]
    reject_unfit(rounded, weights)
    cs_shape = calibration.specs["cs"].shape
    batches = choose_batches(transformer, model.LATENT_SHAPE, cs_shape)
    check_search(transformer, model.LATENT_SHAPE, cs_shape, batches.observed, batches.differentiated)
    cfg_scale = calibration.seal["parameters"]["cfg_scale"]
    costs, ranks = measure(parameters, transformer, points, rounded, weights, rules, cfg_scale, batches)
    origin = {"model": model.file_digests(), "calibration": calibration.seal["fingerprint"]}
    elements = {name: weight.size for name, weight in weights.items()}
    write_costs(arguments.out, parameters.encode(), costs, elements, ranks, origin)
    log.info(f"{len(costs)} layers, {parameters.search_probes} gradients: {arguments.out}")


def reject_unfit(layers: list[Layer], weights: dict[str, mx.array]) -> None:
    """Raise UserError if there is no layer to search, or the width of a layer is no multiple of any group size."""
    if not layers:
        raise UserError(describe_nothing_to_search())
    for layer in layers:
        width = weights[layer.name].shape[1]
        if not list_choices(width):
            raise UserError(
                f"weights: {layer.name}: {width} inputs are not a multiple of the group sizes {GROUP_SIZES[0]} and"
                f" {GROUP_SIZES[1]}; give it 16 bits, or set bits_per_weight to null"
            )


def measure(
    parameters: MeasureCosts,
    transformer: Transformer,
    points: CalibrationPoints,
    layers: list[Layer],
    weights: dict[str, mx.array],
    rules: dict[str, WeightRule],
    cfg_scale: float,
    batches: Batches,
) -> tuple[Costs, dict[str, int]]:
    """The costs of every choice by layer name, and the effective rank of every input by input name.

    Of `weights` only the shapes are read.
    """
    steps = np.unique(points.sigmas, return_inverse=True)[1]
    chosen = choose_spread_points(steps, points.prompts, parameters.search_points, parameters.seed)
    rng = np.random.default_rng(parameters.seed)
    probes = [rng.choice(chosen, min(PROBE_POINTS, len(chosen)), replace=False)]
    probes += [rng.choice(chosen, len(probes[0]), replace=False) for _ in range(parameters.search_probes - 1)]
    progress = Progress("measure_costs", len(layers), "layers")
    costs: Costs = {}
    ranks: dict[str, int] = {}
    for group in group_layers(layers, weights, limit_group(sum(weight.size for weight in weights.values()))):
        observed = (points.take(run) for run in split_runs(chosen, batches.observed))
        changes, found = round_group(transformer, group, observed, rules, parameters.gptq_damping, progress)
        ranks |= found
        costs |= estimate_costs(transformer, points, probes, changes, cfg_scale, parameters.seed, batches)
        del changes  # those of the next group are made before the name is bound to them
    return costs, ranks


def round_group(
    transformer: Transformer,
    group: list[Layer],
    observed: Iterable[Batch],
    rules: dict[str, WeightRule],
    gptq_damping: float,
    progress: Progress,
) -> tuple[dict[str, dict[Choice, np.ndarray]], dict[str, int]]:
    """The error of every choice (out, in) by layer name, and the effective rank of every input by input name.

    Raises UserError naming a layer that cannot be rounded.
    """
    hessians, (weights, _) = accumulate_hessians(transformer, group, observed), read_weights(transformer, group)
    ranks, changes = measure_ranks(hessians), {}
    for layer in group:
        name = layer.name
        try:
            damping = choose_damping(layer, gptq_damping)
            changes[name] = round_choices(weights[name], rules[name], hessians[layer.input], damping)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        progress.advance()
    return changes, ranks


def measure_ranks(hessians: dict[str, np.ndarray]) -> dict[str, int]:
    """The effective rank of each input by its name. Raises UserError naming an input whose Hessian is not finite."""
    ranks = {}
    for name, hessian in hessians.items():
        try:
            ranks[name] = measure_rank(hessian)
        except ValueError as error:
            raise UserError(f"{name}: {error}; check the model's weights") from error
    return ranks


if __name__ == "__main__":
    run(main, add_folds(build_parser(__doc__, "params", "calibration", "out")))
