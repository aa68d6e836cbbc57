"""Quantize one block: round its weights by the engine asked for, choose the step sizes of its inputs, and measure.

Goes on where an earlier run of the same work was interrupted. What is written is the best of the ways tried, on points
that took no part in any of them; the report beside it has the errors of all.
"""

import argparse
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from workflow_scripts import plan
from workflow_scripts.entry import Progress, build_parser, log, run
from workflow_scripts.mmdit.block_assembly import assemble_problem, list_own_linears, read_weights, split_points
from workflow_scripts.mmdit.block_problem import BlockProblem
from workflow_scripts.mmdit.candidates import Candidate, Learning, choose_candidate, list_candidates, measure_candidate
from workflow_scripts.mmdit.input_quantizers import InputQuantizer, calibrate
from workflow_scripts.mmdit.migration import migrate, migrate_weights
from workflow_scripts.mmdit.propagation import Streams, propagate
from workflow_scripts.mmdit.reconstruction import PHASES, State
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.numerics.layer_rules import UNQUANTIZED
from workflow_scripts.numerics.weight_grid import Grid, choose_grid, dequantize, round_to_grid
from workflow_scripts.store.block_file import BlockFile, LayerInput, LayerWeight, read_block, write_block
from workflow_scripts.store.block_inputs import BlockInputs, open_block_inputs
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import read_json, write_json
from workflow_scripts.store.learning_state import read_learning, write_learning
from workflow_scripts.store.lock import hold_lock
from workflow_scripts.store.seal import check_origin, fingerprint_origin, read_file_seal

LOSSES_REPORTED = 200  # at most; each the mean of a run of iterations


@dataclass(frozen=True)
class Task:
    """A block, ready: its problem, the grids of its weights, its inputs' quantizers, and its adaLN weights, rounded."""

    problem: BlockProblem
    grids: dict[str, Grid]
    quantizers: dict[str, InputQuantizer]
    modulation: dict[str, LayerWeight]


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params)
    inputs = open_block_inputs(arguments.inputs)
    before = [read_block(path) for path in arguments.before]
    model = find_model(parameters["model"])
    origin = list_origin(parameters, inputs, before, model)
    with hold_lock(arguments.scratch.with_name(f"{arguments.scratch.name}.lock"), log.info):
        if is_finished(arguments.out, parameters, origin, arguments.replace):
            log.info(f"{arguments.out} is finished already")
        else:
            try:
                quantize_block(arguments, parameters, origin, prepare(parameters, inputs, before, model))
            except ValueError as error:  # what numerics say of weights and inputs
                raise UserError(f"{parameters['block']}: {error}") from error
        shutil.rmtree(arguments.scratch, ignore_errors=True)


def list_origin(
    parameters: plan.Parameters, inputs: BlockInputs, before: list[BlockFile], model: Any
) -> dict[str, Any]:
    """Digests of what the block is made from. Raises UserError if it does not belong together."""
    digests = model.file_digests()
    for part in inputs.parts:
        check_origin(part.seal, part.path, {"model": parameters["model"]}, {"model": digests})
    blocks = plan.list_blocks(parameters["model"])
    if parameters["block"] not in blocks:
        raise UserError(f"{parameters['block']}: the model {parameters['model']} has the blocks {', '.join(blocks)}")
    wanted = blocks[: blocks.index(parameters["block"])] if parameters["block_inputs"] == "quantized" else []
    found = [file.seal["parameters"]["block"] for file in before]
    if found != wanted:
        raise UserError(f"--before: the files of blocks {wanted} are needed in this order, and {found} are named")
    shared = {"model": digests, "block_inputs": [part.seal["fingerprint"] for part in inputs.parts]}
    for name, file in zip(found, before, strict=True):
        check_origin(file.seal, Path(name), {}, shared)
    return shared | {"before": [file.seal["checksum"] for file in before]}


def is_finished(path: Path, parameters: plan.Parameters, origin: dict[str, Any], replaceable: bool) -> bool:
    """Whether the block in `path` is made of this.

    Raises UserError if it is there and damaged or made of something else, unless it may be replaced.
    """
    if not all(place.exists() for place in (path, path.with_suffix(".json"), path.with_suffix(".report.json"))):
        return False
    try:
        check_origin(read_file_seal(path.with_suffix(".json")), path, parameters, origin)
        read_block(path)
    except UserError as error:
        if not replaceable:
            raise
        log.info(f"{str(error).partition(';')[0]}; it is made again")
        return False
    return True


def prepare(parameters: plan.Parameters, inputs: BlockInputs, before: list[BlockFile], model: Any) -> Task:
    """The block's problem with everything that is chosen before any rounding, in the order that matters.

    Shift, then migration, then the weights' grids.
    """
    block, rules = parameters["block"], parameters["layers"]
    transformer = model.load_transformer()
    index = plan.list_blocks(parameters["model"]).index(block)
    modulation = round_modulation(transformer, block, rules)
    weights, _ = read_weights(transformer, list_own_linears(transformer, block))
    problem = assemble_problem(
        transformer,
        block,
        rules,
        weights | {name: mx.array(dequantize(layer.codes, layer.grid)) for name, layer in modulation.items()},
        read_streams(transformer, inputs, before, index),
        inputs.read_targets(index),
        inputs.modulation,
        inputs.sigmas,
        split_points(inputs.points, inputs.sigmas, parameters["held_out"], parameters["seed"]),
    )
    activation_rules = {name: rule["activation"] for name, rule in rules.items()}
    quantizers, observed = calibrate(problem, activation_rules, parameters["seed"])
    quantizers = migrate(problem, quantizers, observed, activation_rules, parameters)
    problem = replace(
        problem,
        weights=migrate_weights(problem.weights, problem.readers, quantizers),
        clean=inputs.read_block(index) if before else None,
    )
    chosen = {name: rules[name]["weight"] for name in problem.weights}
    grids = {
        name: choose_grid(problem.weights[name], rule) for name, rule in chosen.items() if rule["bits"] != UNQUANTIZED
    }
    return Task(problem, grids, quantizers, modulation)


def round_modulation(transformer: Any, block: str, rules: dict[str, Any]) -> dict[str, LayerWeight]:
    """The quantized adaLN weights: to nearest, as nothing but a table by time step and prompt comes of them."""
    layers = [layer for layer in list_own_linears(transformer, block) if layer.role == "adaLN"]
    weights, _ = read_weights(transformer, layers)
    rounded = {}
    for name, weight in weights.items():
        if rules[name]["weight"]["bits"] != UNQUANTIZED:
            grid = choose_grid(weight, rules[name]["weight"])
            rounded[name] = LayerWeight(grid, round_to_grid(np.array(weight), grid))
    return rounded


def read_streams(transformer: Any, inputs: BlockInputs, before: list[BlockFile], index: int) -> Streams:
    """What the block reads: as captured, or what the quantized blocks before it give."""
    if not before:
        return inputs.read_block(index)
    streams = inputs.read_block(0)
    for file in before:
        streams = propagate(transformer, file, streams, inputs.modulation, inputs.sigmas)
    return streams


def quantize_block(
    arguments: argparse.Namespace, parameters: plan.Parameters, origin: dict[str, Any], task: Task
) -> None:
    """Try the engines, keep the best on the held-out points, write the report, the block and its seal."""
    learning = open_learning(arguments.scratch / "learning.safetensors", parameters, origin)
    candidates = list_candidates(task.problem, task.grids, task.quantizers, parameters, learning)
    errors = [measure_candidate(task.problem, task.grids, candidate) for candidate in candidates]
    refuse_broken(parameters["block"], candidates, errors)
    best = candidates[choose_candidate(candidates, errors)]
    report = describe(task, candidates, errors, best) | {"block": parameters["block"]}
    write_json(arguments.out.with_suffix(".report.json"), report)
    weights = task.modulation | {name: LayerWeight(task.grids[name], codes) for name, codes in best.codes.items()}
    write_block(arguments.out, weights, list_inputs(task.problem, best), task.problem.sigmas, parameters, origin)
    for candidate, error in zip(candidates, errors, strict=True):
        log.info(f"{parameters['block']} {candidate.engine}: {describe_errors(error['quantized_inputs'])} held out")
    log.info(f"{parameters['block']}: {best.engine} is written to {arguments.out}")


def refuse_broken(block: str, candidates: list[Candidate], errors: list[dict[str, Any]]) -> None:
    """Raise UserError naming the engine if an error on the held-out points is not a finite number."""
    for candidate, error in zip(candidates, errors, strict=True):
        if not all(math.isfinite(value) for way in error.values() for value in way.values()):
            raise UserError(
                f"{block}: the outputs by {candidate.engine} on held-out points are not finite;"
                " check the model's weights, and the captured rows"
            )


def open_learning(path: Path, parameters: plan.Parameters, origin: dict[str, Any]) -> Learning:
    """Where the learning stands and is saved; a checkpoint that is no use is said so and not used."""
    fingerprint = fingerprint_origin(parameters, origin)
    try:
        state = unpack_state(read_learning(path, fingerprint))
    except UserError as error:
        log.info(f"{str(error).partition(';')[0]}; it is not used, and {parameters['block']} starts over")
        state = None
    if state:
        log.info(f"resuming {parameters['block']} after {len(state.losses)} iterations")
    total = parameters.get("adaround_iterations", 0) * len(PHASES[parameters.get("reconstruction", "joint")])
    progress = Progress(parameters["block"], total, "iterations", len(state.losses) if state else 0)
    return Learning(
        state,
        lambda state: write_learning(path, fingerprint, *pack_state(state)),
        lambda loss: progress.advance(note=f"loss {loss:.4g}"),
    )


def pack_state(state: State) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A state as plain numbers and arrays."""
    arrays = {"alpha": state.alpha, **{f"log_steps {key}": value for key, value in state.log_steps.items()}}
    for name, adam in state.adam.items():
        arrays |= {f"adam {name} {key}": value for key, value in flatten_tree(adam)}
    numbers = {"phase": state.phase, "iteration": state.iteration, "losses": state.losses}
    return numbers, {key: np.array(value) for key, value in arrays.items()}


def flatten_tree(tree: dict[str, Any], path: str = "") -> list[tuple[str, mx.array]]:
    """The arrays of nested dictionaries by path, its parts joined by spaces, which no layer's name has."""
    pairs = []
    for key, value in tree.items():
        place = f"{path} {key}".strip()
        pairs += flatten_tree(value, place) if isinstance(value, dict) else [(place, value)]
    return pairs


def unpack_state(saved: tuple[dict[str, Any], dict[str, np.ndarray]] | None) -> State | None:
    """The state of `pack_state`."""
    if saved is None:
        return None
    numbers, arrays = saved
    trees: dict[str, Any] = {"log_steps": {}, "adam": {}}
    for key, value in arrays.items():
        *path, last = key.split(" ")
        place = trees
        for part in path:
            place = place.setdefault(part, {})
        place[last] = mx.array(value)
    return State(numbers["phase"], numbers["iteration"], **trees, losses=numbers["losses"])


def list_inputs(problem: BlockProblem, candidate: Candidate) -> dict[str, LayerInput]:
    """The grids of the layers' inputs that have step sizes of their own."""
    quantizers = {name: candidate.quantizers[key] for name, key in problem.readers.items()}
    return {
        name: LayerInput(
            np.array(quantizer.steps),
            None if quantizer.shift is None else np.array(quantizer.shift),
            None if quantizer.migration is None else np.array(quantizer.migration).astype(np.int32),
        )
        for name, quantizer in quantizers.items()
        if quantizer.steps is not None
    }


def describe(task: Task, candidates: list[Candidate], errors: list[dict[str, Any]], best: Candidate) -> dict[str, Any]:
    """The report: held-out errors over the power of the outputs by engine, what was learned, and how it went."""
    rounded, problem = candidates[0].codes, task.problem
    return {
        "chosen": best.engine,
        "rows": {"training": len(problem.training), "held_out": len(problem.held_out)},
        "errors": {candidate.engine: error for candidate, error in zip(candidates, errors, strict=True)},
        "layers": {
            name: {
                "moved_from_nearest": float(np.mean(codes != rounded[name])),
                "migrated_channels": count_migrated(best.quantizers[problem.readers[name]]),
            }
            for name, codes in best.codes.items()
        },
        "loss": shorten_losses(candidates[-1].losses),
    }


def count_migrated(quantizer: InputQuantizer) -> int:
    """The channels with a migration above 1."""
    return 0 if quantizer.migration is None else int((np.array(quantizer.migration) > 1).sum())


def shorten_losses(losses: list[float]) -> dict[str, Any]:
    """The training losses as means over runs of `every` iterations."""
    every = max(1, math.ceil(len(losses) / LOSSES_REPORTED))
    return {"every": every, "values": [float(np.mean(losses[i : i + every])) for i in range(0, len(losses), every)]}


def describe_errors(error: dict[str, float]) -> str:
    """Signal-to-noise ratios of the streams in words."""
    return ", ".join(f"{name} {-10 * math.log10(max(value, 1e-30)):.2f} dB" for name, value in error.items())


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "scratch", "out")
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, help="the parts of block_inputs.zarr")
    parser.add_argument("--before", type=Path, nargs="*", default=[], help="the quantized blocks before this one")
    parser.add_argument("--replace", action="store_true", help="make a block again that other parameters made")
    run(main, parser)
