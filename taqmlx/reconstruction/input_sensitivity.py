"""Output error of a block when the input of one of its layers is quantized, per noise level."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from taqmlx.numerics.activation import find_largest_code
from taqmlx.numerics.input_quantizer import InputQuantizer, as_single
from taqmlx.numerics.tiers import TIERS
from taqmlx.planning.documents import InputSensitivity
from taqmlx.planning.layer_rules import UNQUANTIZED, InputRule
from taqmlx.planning.layers import Layer, reads_gelu
from taqmlx.reconstruction.block_problem import BlockProblem, run_rows, take_rows
from taqmlx.reconstruction.input_quantizers import Extremes, bind_to_rows, choose_quantizer, list_steps
from taqmlx.reconstruction.sensitivity import (
    Change,
    RowErrors,
    compare_streams,
    list_kept,
    list_pairs,
    measure_changes,
    spread_rows,
)

CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # candidate clipping ranges, as shares of the absmax
CLIP_ROWS = 128  # rows used to choose the clip; its errors are then measured on all rows


def measure_inputs(
    problem: BlockProblem,
    layers: Sequence[Layer],
    observed: Mapping[str, Extremes],
    rules: Mapping[str, InputRule],
    seed: int,
) -> dict[str, InputSensitivity]:
    """Error of quantizing each reader's input alone, in the format of the sensitivity file.

    layers: the block's linears without adaLN; observed: extremes on all rows; rules: activation rules by layer. Each
    noise level has its own step size. An input is shifted if its rule shifts it.
    """
    quantizers = {
        key: {bits: choose_first(key, problem, extremes, rules[key], bits, seed) for bits in TIERS}
        for key, extremes in observed.items()
    }
    inside = measure_inside(problem, {key: chosen[TIERS[0]] for key, chosen in quantizers.items()})
    return {key: describe_reader(problem, key, layers, chosen, inside[key]) for key, chosen in quantizers.items()}


def choose_first(
    key: str, problem: BlockProblem, extremes: Extremes, rule: InputRule, bits: int, seed: int
) -> InputQuantizer:
    """Quantizer of an input with a clipping range equal to the absmax at each noise level."""
    shifts = rule["bits"] != UNQUANTIZED and rule["shift"]
    wanted: InputRule = {"bits": bits, "policy": "lut", "range": "absmax", "shift": shifts}
    return choose_quantizer(key, extremes, wanted, problem.rows.sigma_index, problem.sigmas, seed)


def clip_steps(quantizer: InputQuantizer, clip: float) -> InputQuantizer:
    """Quantizer with its clipping range scaled by `clip`."""
    return replace(quantizer, steps=quantizer.step_sizes * clip)


def round_input(problem: BlockProblem, key: str, quantizer: InputQuantizer) -> Change:
    """Change that quantizes the input of one reader."""
    bind = bind_to_rows(dict.fromkeys(problem.readers.values(), InputQuantizer()) | {key: quantizer})
    return lambda rows, where: (problem.weights, bind(rows), rows)


def describe_reader(
    problem: BlockProblem,
    key: str,
    layers: Sequence[Layer],
    quantizers: Mapping[int, InputQuantizer],
    inside: np.ndarray,
) -> InputSensitivity:
    """Entry of one reader in the sensitivity file; inside (clips,): share of values within each clipping range."""
    reading = [layer for layer in layers if problem.readers[layer.name] == key]
    kept = list_kept(layers, reading)
    few, every = (
        spread_rows(problem.sigmas[problem.rows.sigma_index], CLIP_ROWS),
        np.arange(len(problem.rows.sigma_index)),
    )
    tried = [round_input(problem, key, clip_steps(quantizers[bits], clip)) for bits in TIERS for clip in CLIPS]
    totals = add_streams(measure_changes(problem, few, kept, tried, compare_streams), slice(None))
    totals = totals.reshape(len(TIERS), len(CLIPS))  # (tiers * clips,) -> (tiers, clips)
    best = totals.argmin(axis=1)
    chosen = [tried[tier * len(CLIPS) + clip] for tier, clip in enumerate(best)]
    errors = measure_changes(problem, every, kept, chosen, compare_streams)
    levels = np.stack([add_streams(errors, problem.rows.sigma_index == index) for index in range(len(problem.sigmas))])
    return {
        "layers": [layer.name for layer in reading],
        "post_gelu": reads_gelu(key),
        "tiers": {
            str(bits): {"clip": CLIPS[clip], "inside": float(inside[clip]), "errors": levels[:, tier].tolist()}
            for tier, (bits, clip) in enumerate(zip(TIERS, best, strict=True))
        },
        "clips": {
            str(bits): {f"{clip:g}": float(total) for clip, total in zip(CLIPS, totals[tier], strict=True)}
            for tier, bits in enumerate(TIERS)
        },
    }


def add_streams(errors: RowErrors, where: np.ndarray | slice) -> np.ndarray:
    """Relative squared error of the block outputs over the rows at `where`, summed over streams, (changes,)."""
    streams = list(errors.relate(where).values())
    return sum(streams[1:], streams[0])


def measure_inside(problem: BlockProblem, quantizers: Mapping[str, InputQuantizer]) -> dict[str, np.ndarray]:
    """Share of all values within the clipping range at each of CLIPS, (clips,), by reader."""
    counts = {key: np.zeros(len(CLIPS)) for key in quantizers}
    sizes, steps = dict.fromkeys(quantizers, 0), list_steps(quantizers)

    def count(key: str, x: mx.array, sigma_index: mx.array) -> None:
        quantizer, shift = quantizers[key], as_single(quantizers[key].shift)
        # (K,) -> (B, 1, 1)
        limit = (steps[key] * find_largest_code(quantizer.bit_width))[sigma_index].reshape(-1, 1, 1)
        magnitudes = mx.abs(x if shift is None else x - shift) / limit
        # with a tolerance, because the absmax itself was divided by the largest code and rounded
        counts[key] += [float(mx.sum(magnitudes <= clip * (1 + 1e-5))) for clip in CLIPS]
        sizes[key] += x.size

    observe_values(problem, np.arange(len(problem.rows.sigma_index)), count)
    return {key: counts[key] / sizes[key] for key in counts}


def observe_values(problem: BlockProblem, where: np.ndarray, see: Callable[[str, mx.array, mx.array], None]) -> None:
    """Call `see(reader, x (B, T, D), sigma_index (B,))` with every full-precision layer input on rows `where`."""
    for batch in list_pairs(problem, where):
        rows = take_rows(problem.rows, batch)

        def pass_on(key: str, x: mx.array, sigma_index: mx.array = rows.sigma_index) -> mx.array:
            see(key, x, sigma_index)
            return x

        mx.eval(run_rows(problem, problem.weights, pass_on, rows))
