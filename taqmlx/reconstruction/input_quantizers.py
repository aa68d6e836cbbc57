"""Quantizers of a block's layer inputs: initial step sizes and shifts, and their application to the block's rows.

Source of the shift of post-GELU inputs: TaQ-DiT, Liu et al. 2024, arXiv:2411.14172, section on momentum-based shifting.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.numerics.activation import compute_ranges, compute_step
from taqmlx.numerics.input_quantizer import InputQuantizer, create_quantizer, has_steps, store_steps
from taqmlx.numerics.momentum_shift import compute_momentum_shift
from taqmlx.numerics.sigma_lookup import find_nearest_knot
from taqmlx.numerics.sketch import sample_rows
from taqmlx.planning.layer_rules import InputRule
from taqmlx.planning.layers import reads_gelu
from taqmlx.reconstruction.block_problem import (
    BlockProblem,
    Quantize,
    Rows,
    keep_inputs,
    list_batches,
    run_rows,
    take_rows,
)


class Extremes(NamedTuple):
    """Minimum and maximum of each row and channel of an input (R, D), and a sample of each row (R, S)."""

    minimum: np.ndarray
    maximum: np.ndarray
    sample: np.ndarray


def observe_inputs(problem: BlockProblem, where: np.ndarray) -> dict[str, Extremes]:
    """Extremes of the full-precision layer inputs on the rows at `where`, by reader."""
    parts: dict[str, list[Extremes]] = {}

    def observe(key: str, x: mx.array) -> mx.array:
        extremes = Extremes(*map(np.array, (x.min(axis=1), x.max(axis=1), sample_rows(x))))
        parts.setdefault(key, []).append(extremes)
        return x

    for batch in list_batches(problem, where):
        rows = take_rows(problem.rows, batch)
        mx.eval(run_rows(problem, problem.weights, observe, rows))
    return {key: Extremes(*map(np.concatenate, zip(*extremes, strict=True))) for key, extremes in parts.items()}


def calibrate(
    problem: BlockProblem, rules: Mapping[str, InputRule], seed: int
) -> tuple[dict[str, InputQuantizer], dict[str, Extremes]]:
    """Initial quantizer of each reader's input, and the extremes it was chosen from."""
    observed = observe_inputs(problem, problem.training)
    sigma_index = problem.rows.sigma_index[problem.training]
    return {
        key: choose_quantizer(key, extremes, rules[key], sigma_index, problem.sigmas, seed)
        for key, extremes in observed.items()
    }, observed


def choose_quantizer(
    key: str, extremes: Extremes, rule: InputRule, sigma_index: np.ndarray, sigmas: np.ndarray, seed: int
) -> InputQuantizer:
    """Quantizer of one input by its rule, from rows at noise levels of index `sigma_index` (R,)."""
    if not has_steps(rule):
        return create_quantizer(rule)
    shift = None
    if rule["shift"] and reads_gelu(key):
        shift = compute_momentum_shift(extremes.minimum, extremes.maximum, np.random.default_rng(seed))
    return create_quantizer(rule, calibrate_step_sizes(extremes, shift, rule, sigma_index, sigmas), shift)


def calibrate_step_sizes(
    extremes: Extremes, shift: np.ndarray | None, rule: InputRule, sigma_index: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """Step sizes float32 (K,), or (1,) for a static policy, from rows at `sigma_index` (R,).

    A noise level without rows gets the step size of the nearest one with rows.
    """
    present = np.unique(sigma_index)
    ranges = [describe_range(Extremes(*(part[sigma_index == index] for part in extremes)), shift) for index in present]
    per_step = {name: [described[name] for described in ranges] for name in ranges[0]}
    steps = compute_step(compute_ranges(per_step, rule["range"], shift is not None), rule["bits"])
    nearest: np.ndarray = steps[[find_nearest_knot(float(sigma), sigmas[present]) for sigma in sigmas]]
    return store_steps(nearest, rule["policy"])


def describe_range(extremes: Extremes, shift: np.ndarray | None) -> dict[str, float]:
    """Statistics for `compute_ranges`."""
    low, high = extremes.minimum.min(axis=0), extremes.maximum.max(axis=0)
    described = {"absmax": max(-low.min(), high.max())}
    described |= {f"p{100 * share:g}": np.quantile(extremes.sample, share) for share in (0.001, 0.999)}
    if shift is not None:
        described["shifted_absmax"] = max(np.abs(low - shift).max(), np.abs(high - shift).max())
    return described


def bind_rounding(
    quantizers: Mapping[str, InputQuantizer], steps: Mapping[str, mx.array], sigma_index: mx.array
) -> Quantize:
    """`quantize(key, x)` at the noise levels `sigma_index` (B,) of the rows, with the step sizes in `steps`, if any."""
    forwards = {key: quantizer.bind_rows(sigma_index, steps.get(key)) for key, quantizer in quantizers.items()}
    return lambda key, x: forwards[key](x)


def bind_dropping(
    quantizers: Mapping[str, InputQuantizer], quantize: Quantize, drop: float, random: mx.array
) -> Quantize:
    """`quantize`, with each value left unquantized with probability `drop` (QDrop, Wei et al. 2022, eq. 9).

    random: a key of `mx.random`.
    """
    keys = dict(zip(quantizers, mx.random.split(random, len(quantizers)), strict=True))

    def drop_some(key: str, x: mx.array) -> mx.array:
        rounded, plain = quantize(key, x), quantizers[key].divide(x)
        kept = mx.random.bernoulli(1.0 - drop, x.shape, keys[key]).astype(x.dtype)
        return plain + kept * (rounded - plain)

    return drop_some


def leave_unrounded(quantizers: Mapping[str, InputQuantizer]) -> Quantize:
    """`quantize(key, x)` that only divides by the migration."""
    return lambda key, x: quantizers[key].divide(x)


def list_steps(quantizers: Mapping[str, InputQuantizer]) -> dict[str, mx.array]:
    """Learnable step sizes, by reader."""
    return {key: mx.array(quantizer.steps) for key, quantizer in quantizers.items() if quantizer.steps is not None}


def bind_to_rows(quantizers: Mapping[str, InputQuantizer]) -> Callable[[Rows[mx.array]], Quantize]:
    """`bind(rows)`: quantizers at the noise levels of the rows."""
    return lambda rows: bind_rounding(quantizers, {}, rows.sigma_index)


def measure_squares(problem: BlockProblem, quantizers: Mapping[str, InputQuantizer]) -> dict[str, np.ndarray]:
    """Mean square float64 (D,) of each channel of the quantized layer inputs over the training rows, by reader."""
    sums: dict[str, np.ndarray] = {}
    bind = bind_to_rows(quantizers)
    for batch in list_batches(problem, problem.training):
        rows = take_rows(problem.rows, batch)
        read: dict[str, mx.array] = {}
        mx.eval(run_rows(problem, problem.weights, keep_inputs(bind(rows), read), rows))
        for key, x in read.items():
            means = mx.square(x.astype(mx.float32)).mean(axis=1).sum(axis=0)  # (B, T, D) -> (D,)
            sums[key] = sums.get(key, 0) + np.array(means, np.float64)
    return {key: total / len(problem.training) for key, total in sums.items()}
