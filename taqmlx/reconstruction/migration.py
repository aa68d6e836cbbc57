"""Reconstruction-driven migration (TaQ-DiT, Liu et al. 2024, arXiv:2411.14172) of post-GELU outlier channels.

Outlier channels are divided by integers m, which are folded into the columns of the weight. The channels' own step
sizes are learned from the block outputs, with full-precision weights, before the weight grid is chosen: z, then m, then
W diag(m).
"""

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx.optimizers import Adam

from taqmlx.numerics.input_quantizer import InputQuantizer, as_single
from taqmlx.numerics.learned_step import quantize_learned
from taqmlx.numerics.ranges import OUTLIER_RANGE
from taqmlx.numerics.rounding import compute_rate
from taqmlx.planning.layer_rules import InputRule
from taqmlx.planning.layers import reads_gelu
from taqmlx.planning.stage_groups import AdaRound, Rtn
from taqmlx.reconstruction.block_problem import BlockProblem, Rows, compute_loss, run_rows
from taqmlx.reconstruction.input_quantizers import Extremes, calibrate_step_sizes, list_steps
from taqmlx.reconstruction.reconstruction import draw_batch

PHASE = -1 % 2**32  # phase in the seed of batches, distinct from the phases of the reconstruction


def find_outliers(minimum: np.ndarray, maximum: np.ndarray) -> np.ndarray:
    """Outlier channels, bool (D,): the range over all rows (R, D) exceeds OUTLIER_RANGE times the median range."""
    ranges = maximum.max(axis=0) - minimum.min(axis=0)
    beyond: np.ndarray = ranges > OUTLIER_RANGE * np.median(ranges)
    return beyond


def measure_absmax(extremes: Extremes, shift: np.ndarray) -> np.ndarray:
    """Largest |x - shift| of each channel, float32 (D,)."""
    low, high = extremes.minimum.min(axis=0), extremes.maximum.max(axis=0)
    absmax: np.ndarray = np.maximum(np.abs(low - shift), np.abs(high - shift))
    return absmax


def migrate(
    problem: BlockProblem,
    quantizers: Mapping[str, InputQuantizer],
    observed: Mapping[str, Extremes],
    rules: Mapping[str, InputRule],
    settings: Rtn,
) -> dict[str, InputQuantizer]:
    """Quantizers with a migration, and step sizes for the migrated input, where the rules request one.

    Raises ValueError if one is to be learned and the settings are not those of AdaRound.
    """
    wanted = [key for key in list_steps(quantizers) if reads_gelu(key) and rules[key]["migration"]]
    ratios = {key: start_ratios(observed[key], quantizers[key]) for key in wanted}
    ratios = {key: ratio for key, ratio in ratios.items() if (ratio > 1).any()}
    if not ratios:
        return dict(quantizers)
    if not isinstance(settings, AdaRound):
        raise ValueError("a migration is learned, which only the engine adaround does")
    sigma_index = problem.rows.sigma_index[problem.training]
    first = {key: divide(observed[key], quantizers[key], ratio) for key, ratio in ratios.items()}
    steps = {key: calibrate_step_sizes(*first[key], rules[key], sigma_index, problem.sigmas) for key in ratios}
    learned = learn_ratios(problem, quantizers, steps, ratios, settings)
    migrated = dict(quantizers)
    for key, ratio in learned.items():
        m = np.maximum(1, np.rint(ratio)).astype(np.float32)
        left = calibrate_step_sizes(*divide(observed[key], quantizers[key], m), rules[key], sigma_index, problem.sigmas)
        migrated[key] = replace(quantizers[key], steps=left, migration=m.astype(np.int32))
    return migrated


def start_ratios(extremes: Extremes, quantizer: InputQuantizer) -> np.ndarray:
    """Ratio of each outlier channel's absmax to the largest non-outlier absmax, float32 (D,); 1 for other channels."""
    shift = read_shift(extremes, quantizer)
    outliers, absmax = (
        find_outliers(extremes.minimum - shift, extremes.maximum - shift),
        measure_absmax(extremes, shift),
    )
    normal = absmax[~outliers].max()
    return np.where(outliers, np.maximum(absmax / normal, 1), 1).astype(np.float32)


def read_shift(extremes: Extremes, quantizer: InputQuantizer) -> np.ndarray:
    """Shift of an input, float32 (D,); zeros if it has none."""
    return np.zeros(extremes.minimum.shape[1], np.float32) if quantizer.shift is None else quantizer.shift


def divide(extremes: Extremes, quantizer: InputQuantizer, ratio: np.ndarray) -> tuple[Extremes, np.ndarray]:
    """Extremes and shift of an input divided by `ratio` (D,).

    A shift is always returned, so that step sizes are computed from the absmax: quantiles of a tensor divided per
    channel cannot be derived from its own.
    """
    return Extremes(extremes.minimum / ratio, extremes.maximum / ratio, extremes.sample), read_shift(
        extremes, quantizer
    ) / ratio


def learn_ratios(
    problem: BlockProblem,
    quantizers: Mapping[str, InputQuantizer],
    steps: Mapping[str, np.ndarray],
    ratios: Mapping[str, np.ndarray],
    settings: AdaRound,
) -> dict[str, np.ndarray]:
    """Step sizes of outlier channels over the common ones, float32 (D,), learned jointly with these (LSQ).

    This takes the warm-up's share of the iterations, at full-precision weights and without any other rounding.
    """
    outliers = {key: mx.array((ratio > 1).astype(np.float32)) for key, ratio in ratios.items()}
    learned = {key: {"steps": mx.log(mx.array(steps[key])), "ratios": mx.log(mx.array(ratios[key]))} for key in ratios}
    iterations = max(1, round(settings.adaround_warm_up * settings.adaround_iterations))
    adam = Adam(0.0, bias_correction=True)

    def measure(learned: Mapping[str, Mapping[str, mx.array]], rows: Rows[mx.array]) -> mx.array:
        def quantize(key: str, x: mx.array) -> mx.array:
            quantizer, own = quantizers[key], learned.get(key, {})
            common = quantizer.find_row_step_sizes(x, mx.exp(own["steps"]), rows.sigma_index) if own else None
            if common is None:
                return x
            shift = 0.0 if quantizer.shift is None else mx.array(quantizer.shift)
            step = common * mx.exp(own["ratios"] * outliers[key])  # (B or 1, 1, D)
            return quantize_learned(x - shift, step, quantizer.bit_width) + shift

        return compute_loss(problem, run_rows(problem, problem.weights, quantize, rows), rows)

    differentiate = mx.value_and_grad(measure)
    for iteration in range(iterations):
        rows, _ = draw_batch(problem, settings, (PHASE, iteration))
        _, gradients = differentiate(learned, rows)
        adam.learning_rate = compute_rate(iteration, iterations, settings.adaround_rate)
        learned = adam.apply_gradients(gradients, learned)
        mx.eval(learned, adam.state)
    return {key: np.array(mx.exp(values["ratios"] * outliers[key])) for key, values in learned.items()}


def migrate_weights(
    weights: Mapping[str, mx.array], readers: Mapping[str, str], quantizers: Mapping[str, InputQuantizer]
) -> dict[str, mx.array]:
    """Weights (out, in) with the migration of their inputs folded into the columns: W diag(m)."""
    moved = dict(weights)
    for name, weight in weights.items():
        migration = as_single(quantizers[readers[name]].migration)
        if migration is not None:
            moved[name] = weight * migration
    return moved
