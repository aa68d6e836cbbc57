"""Methods of rounding a block's weights, and the choice between them on held-out points.

All methods use the same grids and return the same results: codes, and the quantizers of the inputs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import mlx.core as mx
import numpy as np

from taqmlx.numerics.gptq import accumulate_hessian, round_with_gptq
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.weight_grid import Grid, dequantize, round_to_grid
from taqmlx.planning.documents import CandidateErrors
from taqmlx.planning.stage_groups import AdaRound, Gptq, Rtn
from taqmlx.reconstruction.bias_correction import correct_biases
from taqmlx.reconstruction.block_problem import (
    BlockProblem,
    keep_inputs,
    list_batches,
    measure_errors,
    run_rows,
    take_rows,
)
from taqmlx.reconstruction.flat_weights import start_at_codes, start_at_weights
from taqmlx.reconstruction.input_quantizers import bind_to_rows, leave_unrounded
from taqmlx.reconstruction.reconstruction import learn
from taqmlx.reconstruction.state import State, read_quantizers, start_state

HESSIAN_TOKENS = 2**15  # limits the run time; five times the widest input of SD3 Medium


@dataclass(frozen=True)
class Candidate:
    """Codes uint8 (out, in) by layer, input quantizers by reader, losses of the iterations, and corrected biases."""

    engine: str
    codes: dict[str, np.ndarray]
    quantizers: dict[str, InputQuantizer]
    losses: list[float] = field(default_factory=list)
    biases: dict[str, mx.array] = field(default_factory=dict)


@dataclass(frozen=True)
class Learning:
    """Resume state, checkpoint callback and loss callback of AdaRound."""

    state: State | None
    save: Callable[[State], None]
    report: Callable[[float], None]


def round_to_nearest(
    problem: BlockProblem, grids: Mapping[str, Grid], quantizers: dict[str, InputQuantizer]
) -> Candidate:
    """RTN of every weight."""
    codes = {name: round_to_grid(np.array(problem.weights[name]), grid) for name, grid in grids.items()}
    return Candidate("rtn", codes, quantizers)


def round_by_hessian(
    problem: BlockProblem,
    grids: Mapping[str, Grid],
    quantizers: dict[str, InputQuantizer],
    damping: float,
) -> Candidate:
    """GPTQ on the layer inputs of the block with full-precision weights and quantized inputs.

    damping: share of the mean of the Hessian's diagonal.
    """
    hessians = accumulate_hessians(problem, quantizers)
    codes = {
        name: round_with_gptq(np.array(problem.weights[name]), grid, hessians[problem.readers[name]], damping)
        for name, grid in grids.items()
    }
    return Candidate("gptq", codes, quantizers)


def accumulate_hessians(problem: BlockProblem, quantizers: Mapping[str, InputQuantizer]) -> dict[str, np.ndarray]:
    """Hessian (in, in) of each reader's input over the training rows, from about HESSIAN_TOKENS of their tokens."""
    hessians: dict[str, np.ndarray] = {}
    bind = bind_to_rows(quantizers)

    def observe(key: str, x: mx.array) -> None:
        stride = choose_stride(len(problem.training) * x.shape[1], x.shape[1])
        tokens = np.array(x).reshape(-1, x.shape[-1])[::stride]  # (B, T, D) -> (B T, D)
        hessians[key] = accumulate_hessian(hessians.get(key), tokens)

    for batch in list_batches(problem, problem.training):
        rows = take_rows(problem.rows, batch)
        read: dict[str, mx.array] = {}
        mx.eval(run_rows(problem, problem.weights, keep_inputs(bind(rows), read), rows))
        for key, x in read.items():
            observe(key, x)
    return hessians


def choose_stride(tokens: int, per_row: int) -> int:
    """Token stride that samples about HESSIAN_TOKENS of `tokens`, coprime with `per_row` to cover every position."""
    stride = max(1, tokens // HESSIAN_TOKENS)
    while math.gcd(stride, per_row) > 1:
        stride += 1
    return stride


def learn_rounding(
    problem: BlockProblem,
    grids: Mapping[str, Grid],
    first: Candidate,
    settings: AdaRound,
    learning: Learning,
) -> Candidate:
    """AdaRound with learned input step sizes, started from the full-precision weights or from the codes of `first`."""
    starts = {
        "full_precision": lambda: start_at_weights(problem.weights, grids),
        "gptq": lambda: start_at_codes(problem.weights, grids, first.codes),
    }
    flat = starts[settings.adaround_start]()
    state = learning.state or start_state(flat, first.quantizers)
    state = learn(problem, flat, first.quantizers, settings, state, learning.save, learning.report)
    quantizers = read_quantizers(first.quantizers, state)
    return Candidate("adaround", flat.take_codes(state.alpha, grids), quantizers, state.losses)


def list_candidates(
    problem: BlockProblem,
    grids: Mapping[str, Grid],
    quantizers: dict[str, InputQuantizer],
    settings: Rtn,
    learning: Learning,
) -> list[Candidate]:
    """Candidate of the engine that has these settings, after those of the simpler engines it is compared with."""
    candidates = [round_to_nearest(problem, grids, quantizers)]
    if isinstance(settings, Gptq):
        candidates.append(round_by_hessian(problem, grids, quantizers, settings.gptq_damping))
    if isinstance(settings, AdaRound):
        candidates.append(learn_rounding(problem, grids, candidates[-1], settings, learning))
    if settings.bias_correction:
        return [correct(problem, grids, candidate) for candidate in candidates]
    return candidates


def correct(problem: BlockProblem, grids: Mapping[str, Grid], candidate: Candidate) -> Candidate:
    """`candidate` with corrected biases."""
    weights = dequantize_codes(grids, candidate)
    return replace(candidate, biases=correct_biases(problem, weights, candidate.quantizers))


def dequantize_codes(grids: Mapping[str, Grid], candidate: Candidate) -> dict[str, mx.array]:
    """Weights fp32 (out, in) of a candidate's layers."""
    return {name: mx.array(dequantize(codes, grids[name])) for name, codes in candidate.codes.items()}


def measure_candidate(problem: BlockProblem, grids: Mapping[str, Grid], candidate: Candidate) -> CandidateErrors:
    """Held-out error of each stream over its power, with `quantized_inputs` and with `full_precision_inputs`."""
    weights = problem.weights | dequantize_codes(grids, candidate)
    problem = replace(problem, biases={**problem.biases, **candidate.biases})
    quantized, exact = bind_to_rows(candidate.quantizers), leave_unrounded(candidate.quantizers)
    return {
        "quantized_inputs": measure_errors(problem, weights, quantized, problem.held_out),
        "full_precision_inputs": measure_errors(problem, weights, lambda rows: exact, problem.held_out),
    }


def choose_candidate(candidates: list[Candidate], errors: list[CandidateErrors]) -> int:
    """Index of the candidate with the least error with quantized inputs, summed over streams; the simplest on a tie.

    An error of NaN counts as infinite.
    """
    totals = [sum(error["quantized_inputs"].values()) for error in errors]
    return int(np.argmin(np.nan_to_num(totals, nan=np.inf)))
