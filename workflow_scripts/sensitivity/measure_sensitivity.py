"""Measure the quantization error of one block, layer by layer: weights at 2 to 8 bits, inputs at 4 to 8 bits."""

import argparse
from pathlib import Path

import numpy as np

from taqmlx.mmdit.blocks import find_block
from taqmlx.mmdit.footprint import check_forward
from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.planning import plan
from taqmlx.planning.block_plan import list_rules, select_block
from taqmlx.planning.documents import Sensitivity
from taqmlx.planning.stages import MeasureSensitivity
from taqmlx.reconstruction.block_assembly import assemble_problem, list_own_linears, read_weights
from taqmlx.reconstruction.input_histograms import measure_distributions
from taqmlx.reconstruction.input_quantizers import observe_inputs
from taqmlx.reconstruction.input_sensitivity import measure_inputs
from taqmlx.reconstruction.sensitivity import count_batch_rows
from taqmlx.reconstruction.velocity import POINTS, bind_tail, compare_velocities, measure_gains, spread_points
from taqmlx.reconstruction.weight_sensitivity import measure_weights, round_block
from taqmlx.runtime.entry import add_folds, build_parser, log, run
from taqmlx.store.block_inputs import BlockInputs, identify_block, open_block_inputs
from taqmlx.store.errors import report_unusable_values
from taqmlx.store.parameters import read_parameters
from taqmlx.store.sensitivity_file import write_sensitivity


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(MeasureSensitivity, arguments.params)
    inputs, model = open_block_inputs(arguments.inputs), find_model(parameters.model, parameters, folds=arguments.folds)
    origin = identify_block(inputs, parameters, arguments.block, model.file_digests())
    with report_unusable_values(arguments.block):
        content, arrays = measure(parameters, arguments.block, inputs, model)
    write_sensitivity(arguments.out, {**content, "origin": origin}, arrays)
    log.info(f"{arguments.block}: {len(content['weights'])} weights, {len(content['inputs'])} inputs: {arguments.out}")


def measure(
    parameters: MeasureSensitivity, block: str, inputs: BlockInputs, model: Model
) -> tuple[Sensitivity, dict[str, np.ndarray]]:
    """The content of one block's sensitivity file, without `origin`, and its arrays. Raises ValueError."""
    transformer, index = model.load_transformer(), plan.list_block_names(parameters.model).index(block)
    layers, every = list_own_linears(transformer, block), np.arange(len(inputs.points))
    patterns = list_rules(parameters.model, parameters)
    rules = {layer.name: patterns[layer.name] for layer in layers}
    weights, _ = read_weights(transformer, layers)
    problem = assemble_problem(
        transformer,
        find_block(transformer, block, model.LATENT_SHAPE),
        rules,
        weights,
        inputs.read_block(index),
        inputs.read_targets(index),
        inputs.modulation,
        inputs.sigmas,
        (every, every),
    )
    conditions, shape = plan.count_conditions(parameters.model), model.LATENT_SHAPE
    few = spread_points(inputs.sigmas, inputs.points, inputs.negative, conditions, POINTS)
    tokens = problem.rows.text.shape[1]
    check_forward(transformer, shape, tokens, count_batch_rows(problem), "measuring sensitivity")
    tail = bind_tail(transformer, index, shape)
    finish = compare_velocities(tail, inputs.modulation, conditions, parameters.evaluation_cfg)
    whole = round_block(transformer, problem, layers, rules, inputs.modulation)
    observed = observe_inputs(problem, every)
    linears = [layer for layer in layers if layer.name in problem.weights]
    activations = {name: rule["activation"] for name, rule in rules.items()}
    distributions, arrays = measure_distributions(problem, observed, parameters.seed)
    return {
        "model": parameters.model,
        "block": block,
        "parameters": select_block(parameters.encode(), block),
        "sigmas": problem.sigmas.tolist(),
        "points": len(every),
        "velocity_points": len(few),
        "gains": measure_gains(problem, few, whole, finish),
        "weights": measure_weights(transformer, problem, layers, rules, inputs.modulation, finish, few),
        "inputs": measure_inputs(problem, linears, observed, activations, parameters.seed),
        "distributions": distributions,
    }, arrays


if __name__ == "__main__":
    parser = add_folds(build_parser(__doc__, "params", "out"))
    parser.add_argument("--block", required=True, help="block name, such as mm_00")
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, help="shards of block_inputs.zarr")
    run(main, parser)
