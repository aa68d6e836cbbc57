"""Quantizers of a block's layer inputs: initial step sizes, and the shift and migration of TaQ-DiT.

Source: TaQ-DiT, Liu et al. 2024, arXiv:2411.14172, sections on momentum-based shifting and reconstruction-driven
migration. Both apply to post-GELU inputs.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.numerics.activation import PER_TOKEN, compute_ranges, compute_step, compute_token_step
from taqmlx.numerics.knots import find_nearest_knot
from taqmlx.numerics.learned_step import quantize_learned
from taqmlx.numerics.momentum_shift import compute_momentum_shift
from taqmlx.numerics.sketch import sample_rows
from taqmlx.planning.layer_rules import UNQUANTIZED, GroupSize, InputRule
from taqmlx.reconstruction.block_problem import BlockProblem, Quantize, Rows, list_batches, run_rows, take_rows

# Post-GELU inputs, by the suffix of their reader's name.
AFTER_GELU = ".mlp.fc2"


class InputQuantizer(NamedTuple):
    """Quantizer of one input (B, T, D): (x - shift) / migration on a grid of `bits`.

    policy `none`, `dynamic` (a step size per token, or per `group_size` channels of it), `static` (steps (1,)) or `lut`
    (steps (K,), one per noise level); shift and migration (D,) or None.
    """

    policy: str
    bits: int
    steps: mx.array | None = None
    shift: mx.array | None = None
    migration: mx.array | None = None
    group_size: GroupSize = PER_TOKEN


class Extremes(NamedTuple):
    """Minimum and maximum of each row and channel of an input (R, D), and a sample of each row (R, S)."""

    minimum: np.ndarray
    maximum: np.ndarray
    sample: np.ndarray


def observe_inputs(problem: BlockProblem, where: np.ndarray) -> dict[str, Extremes]:
    """Extremes of the full-precision layer inputs on the rows at `where`, by reader."""
    parts: dict[str, list[Extremes]] = {}

    def observe(key: str, x: mx.array) -> mx.array:
        seen = Extremes(*map(np.array, (x.min(axis=1), x.max(axis=1), sample_rows(x))))
        parts.setdefault(key, []).append(seen)
        return x

    for batch in list_batches(problem, where):
        rows = take_rows(problem.rows, batch)
        mx.eval(run_rows(problem, problem.weights, observe, rows))
    return {key: Extremes(*map(np.concatenate, zip(*seen, strict=True))) for key, seen in parts.items()}


def calibrate(
    problem: BlockProblem, rules: Mapping[str, InputRule], seed: int
) -> tuple[dict[str, InputQuantizer], dict[str, Extremes]]:
    """Initial quantizer of each reader's input, and the extremes it was chosen from."""
    observed = observe_inputs(problem, problem.training)
    knots = problem.rows.knots[problem.training]
    return {
        key: choose_quantizer(key, seen, rules[key], knots, problem.sigmas, seed) for key, seen in observed.items()
    }, observed


def choose_quantizer(
    key: str, seen: Extremes, rule: InputRule, knots: np.ndarray, sigmas: np.ndarray, seed: int
) -> InputQuantizer:
    """Quantizer of one input by its rule, from rows at noise levels of index `knots` (R,)."""
    if rule["bits"] == UNQUANTIZED:
        return InputQuantizer("none", UNQUANTIZED)
    if rule["policy"] == "dynamic":
        return InputQuantizer("dynamic", rule["bits"], group_size=rule["group_size"])
    shift = None
    if rule["shift"] and key.endswith(AFTER_GELU):
        shift = compute_momentum_shift(seen.minimum, seen.maximum, np.random.default_rng(seed))
    steps = choose_steps(seen, shift, rule, knots, sigmas)
    return InputQuantizer(rule["policy"], rule["bits"], mx.array(steps), None if shift is None else mx.array(shift))


def choose_steps(
    seen: Extremes, shift: np.ndarray | None, rule: InputRule, knots: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """Step sizes float32 (K,), or (1,) for a static policy, from rows at `knots` (R,).

    A noise level without rows gets the step size of the nearest one with rows.
    """
    present = np.unique(knots)
    ranges = [describe_range(Extremes(*(part[knots == knot] for part in seen)), shift) for knot in present]
    per_step = {name: [described[name] for described in ranges] for name in ranges[0]}
    steps = compute_step(compute_ranges(per_step, rule["range"], shift is not None), rule["bits"])
    if rule["policy"] == "static":
        largest: np.ndarray = steps.max(keepdims=True)
        return largest
    nearest: np.ndarray = steps[[find_nearest_knot(float(sigma), sigmas[present]) for sigma in sigmas]]
    return nearest


def describe_range(seen: Extremes, shift: np.ndarray | None) -> dict[str, float]:
    """Statistics for `compute_ranges`."""
    low, high = seen.minimum.min(axis=0), seen.maximum.max(axis=0)
    described = {"absmax": max(-low.min(), high.max())}
    described |= {f"p{100 * share:g}": np.quantile(seen.sample, share) for share in (0.001, 0.999)}
    if shift is not None:
        described["shifted_absmax"] = max(np.abs(low - shift).max(), np.abs(high - shift).max())
    return described


def quantize_input(quantizer: InputQuantizer, x: mx.array, step: mx.array | None) -> mx.array:
    """Quantized `x` (B, T, D) for the product with a migrated weight: Q((x - z) / m) + z / m, differentiable.

    `step` broadcasts against x; with None, x is not quantized.
    """
    scaled_shift = quantizer.shift
    if quantizer.migration is not None:
        x = x / quantizer.migration
        scaled_shift = None if scaled_shift is None else scaled_shift / quantizer.migration
    if step is None:
        return x
    if scaled_shift is None:
        return quantize_learned(x, step, quantizer.bits)
    return quantize_learned(x - scaled_shift, step, quantizer.bits) + scaled_shift


def find_step(quantizer: InputQuantizer, steps: mx.array | None, x: mx.array, knots: mx.array) -> mx.array | None:
    """Step sizes for `x` (B, T, D) by the policy: (1, 1, 1), (B, 1, 1), (B, T, 1), (B, T, D) or None."""
    if quantizer.policy == "none":
        return None
    if quantizer.policy == "dynamic":
        return compute_token_step(mx.stop_gradient(x), quantizer.bits, quantizer.group_size)
    if steps is None:
        raise ValueError(f"the policy {quantizer.policy} needs step sizes")
    return spread_steps(quantizer, steps, knots)


def spread_steps(quantizer: InputQuantizer, steps: mx.array, knots: mx.array) -> mx.array:
    """Step size of each row: (1, 1, 1) for a static policy, (B, 1, 1) for a table."""
    return steps.reshape(1, 1, 1) if quantizer.policy == "static" else steps[knots].reshape(-1, 1, 1)


def bind_rounding(quantizers: Mapping[str, InputQuantizer], steps: Mapping[str, mx.array], knots: mx.array) -> Quantize:
    """`quantize(key, x)` at the noise levels `knots` (B,) of the rows, with the step sizes in `steps`, if any."""

    def quantize(key: str, x: mx.array) -> mx.array:
        quantizer = quantizers[key]
        return quantize_input(quantizer, x, find_step(quantizer, steps.get(key), x, knots))

    return quantize


def bind_dropping(
    quantizers: Mapping[str, InputQuantizer], quantize: Quantize, drop: float, random: mx.array
) -> Quantize:
    """`quantize`, with each value left unquantized with probability `drop` (QDrop, Wei et al. 2022, eq. 9).

    random: a key of `mx.random`.
    """
    keys = dict(zip(quantizers, mx.random.split(random, len(quantizers)), strict=True))

    def drop_some(key: str, x: mx.array) -> mx.array:
        rounded, plain = quantize(key, x), quantize_input(quantizers[key], x, None)
        kept = mx.random.bernoulli(1.0 - drop, x.shape, keys[key]).astype(x.dtype)
        return plain + kept * (rounded - plain)

    return drop_some


def leave_unrounded(quantizers: Mapping[str, InputQuantizer]) -> Quantize:
    """`quantize(key, x)` that only divides by the migration."""
    return lambda key, x: quantize_input(quantizers[key], x, None)


def list_steps(quantizers: Mapping[str, InputQuantizer]) -> dict[str, mx.array]:
    """Learnable step sizes, by reader."""
    return {key: quantizer.steps for key, quantizer in quantizers.items() if quantizer.steps is not None}


def bind_to_rows(quantizers: Mapping[str, InputQuantizer]) -> Callable[[Rows[mx.array]], Quantize]:
    """`bind(rows)`: quantizers at the noise levels of the rows."""
    return lambda rows: bind_rounding(quantizers, list_steps(quantizers), rows.knots)
