"""The ways to round a block's weights, and the choice between them on points that took no part.

Every way rounds to the same grids and gives the same things: codes, and the quantizers of the inputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from workflow_scripts.mmdit.block_problem import BlockProblem, list_batches, measure_errors, run_rows, take_rows
from workflow_scripts.mmdit.flat_weights import flatten_weights
from workflow_scripts.mmdit.input_quantizers import InputQuantizer, bind_to_rows, leave_unrounded
from workflow_scripts.mmdit.reconstruction import State, learn, read_quantizers, start_state
from workflow_scripts.numerics.gptq import accumulate_hessian, round_with_gptq
from workflow_scripts.numerics.weight_grid import Grid, dequantize, round_to_grid

Codes = dict[str, np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """Codes uint8 (out, in) by layer, quantizers by reader, and the losses of the iterations that led there."""

    engine: str
    codes: Codes
    quantizers: dict[str, InputQuantizer]
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Learning:
    """What AdaRound needs besides the problem: a state to go on from, where to save it, whom to tell of a loss."""

    state: State | None
    save: Callable[[State], None]
    report: Callable[[float], None]


def round_to_nearest(
    problem: BlockProblem, grids: Mapping[str, Grid], quantizers: dict[str, InputQuantizer]
) -> Candidate:
    """Every weight to the nearest level."""
    codes = {name: round_to_grid(np.array(problem.weights[name]), grid) for name, grid in grids.items()}
    return Candidate("rtn", codes, quantizers)


def round_by_hessian(
    problem: BlockProblem,
    grids: Mapping[str, Grid],
    quantizers: dict[str, InputQuantizer],
    settings: Mapping[str, Any],
) -> Candidate:
    """GPTQ on what each layer reads when the block runs with full-precision weights and quantized inputs."""
    hessians: dict[str, np.ndarray] = {}
    for batch in list_batches(problem.training):
        rows = take_rows(problem.rows, batch)
        quantize = bind_to_rows(quantizers)(rows)

        def observe(key: str, x: mx.array, quantize=quantize) -> mx.array:
            rounded = quantize(key, x)
            flat = np.array(rounded).reshape(-1, x.shape[-1])  # (B, T, D) -> (B T, D)
            hessians[key] = accumulate_hessian(hessians.get(key, np.zeros((x.shape[-1],) * 2)), flat)
            return rounded

        mx.eval(run_rows(problem, problem.weights, observe, rows))
    codes = {
        name: round_with_gptq(
            np.array(problem.weights[name]), grid, hessians[problem.readers[name]], settings["gptq_damping"]
        )
        for name, grid in grids.items()
    }
    return Candidate("gptq", codes, quantizers)


def learn_rounding(
    problem: BlockProblem,
    grids: Mapping[str, Grid],
    quantizers: dict[str, InputQuantizer],
    settings: Mapping[str, Any],
    learning: Learning,
) -> Candidate:
    """AdaRound, with the step sizes of the inputs."""
    flat = flatten_weights(problem.weights, grids)
    state = learning.state or start_state(flat, quantizers)
    state = learn(problem, flat, quantizers, settings, state, learning.save, learning.report)
    return Candidate("adaround", flat.take_codes(state.alpha, grids), read_quantizers(quantizers, state), state.losses)


def list_candidates(
    problem: BlockProblem,
    grids: Mapping[str, Grid],
    quantizers: dict[str, InputQuantizer],
    settings: Mapping[str, Any],
    learning: Learning,
) -> list[Candidate]:
    """What the engine asked for makes, and the simpler ways it is measured against."""
    ways = {
        "rtn": lambda: round_to_nearest(problem, grids, quantizers),
        "gptq": lambda: round_by_hessian(problem, grids, quantizers, settings),
        "adaround": lambda: learn_rounding(problem, grids, quantizers, settings, learning),
    }
    engines = list(ways)
    return [ways[engine]() for engine in engines[: engines.index(settings["engine"]) + 1]]


def measure_candidate(problem: BlockProblem, grids: Mapping[str, Grid], candidate: Candidate) -> dict[str, Any]:
    """The held-out error of each stream over its power, with inputs rounded (`quantized_inputs`) and not."""
    weights = problem.weights | {
        name: mx.array(dequantize(codes, grids[name])) for name, codes in candidate.codes.items()
    }
    ways = {
        "quantized_inputs": bind_to_rows(candidate.quantizers),
        "full_precision_inputs": lambda rows: leave_unrounded(candidate.quantizers),
    }
    return {way: measure_errors(problem, weights, bind, problem.held_out) for way, bind in ways.items()}


def choose_candidate(candidates: list[Candidate], errors: list[dict[str, Any]]) -> int:
    """The place of the one with the least error, the streams' summed, as it will run; of equals the simplest."""
    return int(np.argmin([sum(error["quantized_inputs"].values()) for error in errors]))
