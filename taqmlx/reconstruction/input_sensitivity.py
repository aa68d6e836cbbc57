"""How far a block's outputs go astray when what one of its layers reads is rounded, at each noise level."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from taqmlx.numerics.activation import find_largest_code
from taqmlx.planning.layer_rules import UNQUANTIZED, InputRule
from taqmlx.planning.layers import Layer
from taqmlx.reconstruction.block_problem import BlockProblem, run_rows, take_rows
from taqmlx.reconstruction.input_quantizers import (
    AFTER_GELU,
    Extremes,
    InputQuantizer,
    bind_to_rows,
    choose_quantizer,
    list_steps,
)
from taqmlx.reconstruction.sensitivity import (
    Change,
    RowErrors,
    compare_streams,
    list_kept,
    list_pairs,
    measure_changes,
    spread_rows,
)

TIERS = (4, 6, 8)  # bits of an input that are tried
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # how far a grid reaches that is tried, as shares of the largest magnitude
CLIP_ROWS = 128  # rows the clip is chosen on; its errors are then those of all
_AS_GIVEN = InputQuantizer("none", UNQUANTIZED)


def measure_inputs(
    problem: BlockProblem,
    layers: Sequence[Layer],
    observed: Mapping[str, Extremes],
    rules: Mapping[str, InputRule],
    seed: int,
) -> dict[str, Any]:
    """What each reader's input costs rounded alone, as the sensitivity file describes it.

    layers: the block's linears without adaLN; observed: what is read on all rows; rules: of the activations, by layer.
    Each noise level has its own step. An input is shifted where its rule shifts it.
    """
    quantizers = {
        key: {bits: choose_first(key, problem, seen, rules[key], bits, seed) for bits in TIERS}
        for key, seen in observed.items()
    }
    inside = measure_inside(problem, {key: chosen[TIERS[0]] for key, chosen in quantizers.items()})
    return {key: describe_reader(problem, key, layers, chosen, inside[key]) for key, chosen in quantizers.items()}


def choose_first(
    key: str, problem: BlockProblem, seen: Extremes, rule: InputRule, bits: int, seed: int
) -> InputQuantizer:
    """The quantizer of an input whose steps reach its largest magnitude at each noise level."""
    wanted: InputRule = {"bits": bits, "policy": "lut", "range": "absmax", "shift": rule.get("shift", False)}
    return choose_quantizer(key, seen, wanted, problem.rows.knots, problem.sigmas, seed)


def clip_steps(quantizer: InputQuantizer, clip: float) -> InputQuantizer:
    """The quantizer with steps that reach the share `clip` as far."""
    return quantizer._replace(steps=None if quantizer.steps is None else quantizer.steps * clip)


def round_input(problem: BlockProblem, key: str, quantizer: InputQuantizer) -> Change:
    """One reader's input rounded."""
    bind = bind_to_rows(dict.fromkeys(problem.readers.values(), _AS_GIVEN) | {key: quantizer})
    return lambda rows, where: (problem.weights, bind(rows), rows)


def describe_reader(
    problem: BlockProblem,
    key: str,
    layers: Sequence[Layer],
    quantizers: Mapping[int, InputQuantizer],
    inside: np.ndarray,
) -> dict[str, Any]:
    """One reader of the sensitivity file; inside (clips,): the share of values each clip leaves as they are."""
    reading = [layer for layer in layers if problem.readers[layer.name] == key]
    kept = list_kept(layers, reading)
    few, every = spread_rows(problem.sigmas[problem.rows.knots], CLIP_ROWS), np.arange(len(problem.rows.knots))
    tried = [round_input(problem, key, clip_steps(quantizers[bits], clip)) for bits in TIERS for clip in CLIPS]
    totals = add_streams(measure_changes(problem, few, kept, tried, compare_streams), slice(None))
    totals = totals.reshape(len(TIERS), len(CLIPS))  # (tiers * clips,) -> (tiers, clips)
    best = totals.argmin(axis=1)
    chosen = [tried[tier * len(CLIPS) + clip] for tier, clip in enumerate(best)]
    errors = measure_changes(problem, every, kept, chosen, compare_streams)
    levels = np.stack([add_streams(errors, problem.rows.knots == knot) for knot in range(len(problem.sigmas))])
    return {
        "layers": [layer.name for layer in reading],
        "post_gelu": key.endswith(AFTER_GELU),
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
    """The relative squared errors of the block's output over the rows at `where`, streams summed, (changes,)."""
    streams = list(errors.relate(where).values())
    return sum(streams[1:], streams[0])


def measure_inside(problem: BlockProblem, quantizers: Mapping[str, InputQuantizer]) -> dict[str, np.ndarray]:
    """By reader, the share of all values that the grid reaches at each of CLIPS, (clips,)."""
    counts = {key: np.zeros(len(CLIPS)) for key in quantizers}
    sizes, steps = dict.fromkeys(quantizers, 0), list_steps(quantizers)

    def count(key: str, x: mx.array, knots: mx.array) -> None:
        quantizer = quantizers[key]
        # (K,) -> (B, 1, 1)
        reach = (steps[key] * find_largest_code(quantizer.bits))[knots].reshape(-1, 1, 1)
        magnitudes = mx.abs(x if quantizer.shift is None else x - quantizer.shift) / reach
        # a last place more, as the largest value itself went through a division by the largest code
        counts[key] += [float(mx.sum(magnitudes <= clip * (1 + 1e-5))) for clip in CLIPS]
        sizes[key] += x.size

    observe_values(problem, np.arange(len(problem.rows.knots)), count)
    return {key: counts[key] / sizes[key] for key in counts}


def observe_values(problem: BlockProblem, where: np.ndarray, see: Callable[[str, mx.array, mx.array], None]) -> None:
    """Hand `see(reader, x (B, T, D), knots (B,))` all that is read in full precision on the rows at `where`."""
    for batch in list_pairs(problem, where):
        rows = take_rows(problem.rows, batch)

        def pass_on(key: str, x: mx.array, knots: mx.array = rows.knots) -> mx.array:
            see(key, x, knots)
            return x

        mx.eval(run_rows(problem, problem.weights, pass_on, rows))
