"""Preparation of a block: everything chosen before its weights are rounded."""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Block, build_blocks
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.gptq import accumulate_hessian
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.weight_grid import Grid, choose_grid, dequantize
from taqmlx.planning import plan
from taqmlx.planning.layer_rules import UNQUANTIZED, LayerRules, is_weighted
from taqmlx.planning.stages import BlockParameters
from taqmlx.reconstruction.block_assembly import assemble_problem, list_own_linears, read_weights, split_points
from taqmlx.reconstruction.block_problem import BlockProblem
from taqmlx.reconstruction.input_quantizers import calibrate, measure_squares
from taqmlx.reconstruction.layer_rounding import round_layer
from taqmlx.reconstruction.migration import migrate, migrate_weights
from taqmlx.reconstruction.propagation import Streams, propagate
from taqmlx.store.block_file import BlockFile, LayerWeight
from taqmlx.store.block_inputs import BlockInputs


@dataclass(frozen=True)
class Task:
    """Prepared block: problem, weight grids, input quantizers, and quantized adaLN weights."""

    problem: BlockProblem
    grids: dict[str, Grid]
    quantizers: dict[str, InputQuantizer]
    modulation: dict[str, LayerWeight]


def prepare(
    job: BlockParameters,
    rules: LayerRules,
    inputs: BlockInputs,
    before: list[BlockFile],
    transformer: Transformer,
    latent_shape: tuple[int, ...],
) -> Task:
    """Block problem with everything that is chosen before rounding: shift, then migration, then weight grids.

    The order matters. rules: those of `job`, with the bits of a bit search if there was one; latent_shape
    (h, w, c): of the captured points.
    """
    index = plan.list_block_names(job.model).index(job.block)
    blocks = build_blocks(transformer, latent_shape)[: index + 1]
    split = split_points(inputs.points, inputs.prompt_indices, job.held_out, job.seed)
    modulation = round_modulation(transformer, rules, job, inputs.modulation, split)
    weights, _ = read_weights(transformer, list_own_linears(transformer, job.block))
    problem = assemble_problem(
        transformer,
        blocks[index],
        rules,
        weights | {name: mx.array(dequantize(layer.codes, layer.grid)) for name, layer in modulation.items()},
        read_streams(transformer, inputs, before, blocks),
        inputs.read_targets(index),
        inputs.modulation,
        inputs.sigmas,
        split,
    )
    activation_rules = {name: rule["activation"] for name, rule in rules.items()}
    quantizers, observed = calibrate(problem, activation_rules, job.seed)
    quantizers = migrate(problem, quantizers, observed, activation_rules, job)
    problem = replace(
        problem,
        weights=migrate_weights(problem.weights, problem.readers, quantizers),
        clean=inputs.read_block(index) if before else None,
    )
    chosen = {name: rules[name]["weight"] for name in problem.weights}
    squares = measure_squares(problem, quantizers) if any(map(is_weighted, chosen.values())) else {}
    grids = {
        name: choose_grid(problem.weights[name], rule, squares.get(problem.readers[name]))
        for name, rule in chosen.items()
        if rule["bits"] != UNQUANTIZED
    }
    return Task(problem, grids, quantizers, modulation)


def round_modulation(
    transformer: Transformer,
    rules: LayerRules,
    job: BlockParameters,
    modulation: np.ndarray,
    split: tuple[np.ndarray, np.ndarray],
) -> dict[str, LayerWeight]:
    """Quantized adaLN weights of the block, from the adaLN inputs `modulation` (R, D).

    RTN for the engine `rtn`; otherwise the better one on the held-out rows, chosen by `round_layer`.
    """
    layers = [layer for layer in list_own_linears(transformer, job.block) if layer.role == "adaLN"]
    training, held_out = (modulation[where] for where in split)
    hessian = accumulate_hessian(None, training)
    return {
        name: round_layer(weight, rules[name]["weight"], hessian, held_out, job.engine)
        for name, weight in read_weights(transformer, layers)[0].items()
        if rules[name]["weight"]["bits"] != UNQUANTIZED
    }


def read_streams(
    transformer: Transformer, inputs: BlockInputs, before: list[BlockFile], blocks: list[Block]
) -> Streams:
    """Inputs of the last of `blocks`: as captured, or computed through the quantized blocks `before`."""
    if not before:
        return inputs.read_block(len(blocks) - 1)
    streams = inputs.read_block(0)
    for block, file in zip(blocks[:-1], before, strict=True):
        streams = propagate(transformer, block, file, streams, inputs.modulation, inputs.sigmas)
    return streams


def list_inputs(problem: BlockProblem, chosen: dict[str, InputQuantizer]) -> dict[str, InputQuantizer]:
    """Quantizers of the layer inputs that have step sizes, by layer name."""
    quantizers = {name: chosen[key] for name, key in problem.readers.items()}
    return {name: quantizer for name, quantizer in quantizers.items() if quantizer.steps is not None}
