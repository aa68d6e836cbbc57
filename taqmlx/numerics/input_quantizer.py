"""Quantizer of a layer input: what is stored of it, and the MLX functions that apply it.

    Q((x - z) / m; S)

z is the shift and m the migration (TaQ-DiT, Liu et al. 2024, arXiv 2411.14172); S is the step size, found by a policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.numerics.activation import look_up_step, quantize_dequantize
from taqmlx.numerics.learned_step import quantize_learned
from taqmlx.numerics.token_rounding import PER_TOKEN, compute_token_step, round_tokens
from taqmlx.planning.checkpoint_documents import ArrayKind
from taqmlx.planning.layer_rules import UNQUANTIZED, GroupSize, InputRule

# x (..., D) -> x divided and quantized, in the same shape
Forward = Callable[[mx.array], mx.array]
# fields of InputQuantizer that are arrays, in the order of `create_quantizer`
ARRAYS: tuple[ArrayKind, ...] = ("steps", "shift", "migration")


@dataclass(frozen=True, eq=False)
class InputQuantizer:
    """Quantizer of a layer input x (..., D), in NumPy: (x - shift) / migration on a grid of `bits`.

    policy: key of POLICIES; bits: one bit width, or K of them for `lut`; steps float32: (K,) for `lut`, one per noise
    level, (1,) for `static`, otherwise None; shift float32 (D,) and migration int32 (D,), or None; group_size: for
    `dynamic` and `affine`, the number of channels of a token that share a step size, or PER_TOKEN.
    """

    policy: str = "none"
    bits: int | tuple[int, ...] = UNQUANTIZED
    steps: np.ndarray | None = None
    shift: np.ndarray | None = None
    migration: np.ndarray | None = None
    group_size: GroupSize = PER_TOKEN

    def __post_init__(self) -> None:
        if self.steps is None and POLICIES[self.policy].has_steps:
            raise ValueError(f"the policy {self.policy} needs step sizes")

    @property
    def identity(self) -> tuple[object, ...]:
        """Key that is equal for equal quantizers."""
        arrays = (getattr(self, kind) for kind in ARRAYS)
        return self.bits, self.policy, self.group_size, *(None if part is None else part.tobytes() for part in arrays)

    @property
    def is_migrated(self) -> bool:
        """True if any channel has a migration other than 1."""
        return self.migration is not None and bool(np.any(self.migration != 1))

    @property
    def bit_width(self) -> int:
        """The bits of all noise levels. Raises ValueError if they differ by noise level."""
        if isinstance(self.bits, int):
            return self.bits
        raise ValueError(f"the policy {self.policy} needs one bit width, not {len(self.bits)}")

    @property
    def step_sizes(self) -> np.ndarray:
        """`steps`; (0,) for a policy without stored ones."""
        return np.zeros(0, np.float32) if self.steps is None else self.steps

    def bind(self, weights: np.ndarray) -> Forward:
        """x (..., D) -> Q((x - z) / m) at one noise level, by the weights (K,) of the levels of the step sizes."""
        policy, shift, migration = POLICIES[self.policy], as_single(self.shift), as_single(self.migration)

        def forward(x: mx.array) -> mx.array:
            x = x if shift is None else x - shift
            x = x if migration is None else x / migration
            if policy.measured:
                return policy.measured(self, x)
            step = policy.at_level(self, weights)
            return x if step is None else quantize_dequantize(x, *step)

        return forward

    def bind_rows(self, sigma_index: mx.array, steps: mx.array | None = None) -> Forward:
        """x (B, T, D) -> Q(x / m - z / m) + z / m, differentiable in x and `steps`.

        sigma_index (B,): index of each row's noise level; steps: in the shape of the stored ones, used in their place.
        """
        policy, shift = POLICIES[self.policy], self.scale_shift()
        steps = mx.array(self.step_sizes) if steps is None else steps

        def quantize(x: mx.array) -> mx.array:
            if policy.measured:
                return policy.measured(self, x)
            step = self.find_row_step_sizes(x, steps, sigma_index)
            return x if step is None else quantize_learned(x, step, self.bit_width)

        def forward(x: mx.array) -> mx.array:
            x = self.divide(x)
            return quantize(x) if shift is None else quantize(x - shift) + shift

        return forward

    def find_row_step_sizes(self, x: mx.array, steps: mx.array, sigma_index: mx.array) -> mx.array | None:
        """Step sizes that broadcast against x (B, T, D), from `steps` in the shape of the stored ones; None for `none`.

        sigma_index (B,): index of each row's noise level.
        """
        return POLICIES[self.policy].at_rows(self, x, steps, sigma_index)

    def divide(self, x: mx.array) -> mx.array:
        """x (..., D) / m, not quantized: the input of a migrated weight."""
        migration = as_single(self.migration)
        return x if migration is None else x / migration

    def scale_shift(self) -> mx.array | None:
        """z / m, fp32 (D,); None without a shift."""
        shift = as_single(self.shift)
        return None if shift is None else self.divide(shift)


def as_single(array: np.ndarray | None) -> mx.array | None:
    """`array` as fp32; None for None."""
    return None if array is None else mx.array(array.astype(np.float32))


class Policy(NamedTuple):
    """How the step size of x is found; None leaves x unquantized.

    at_level(quantizer, weights (K,)): step size and bits at one noise level, by the weights of the levels of the step
    sizes; at_rows(quantizer, x (B, T, D), steps, sigma_index (B,)): step size at the noise level of each row, as in
    `find_row_step_sizes`; has_steps: whether step sizes are stored; measured(quantizer, x): x quantized on grids that
    are measured from it, in place of both.
    """

    has_steps: bool
    at_level: Callable[[InputQuantizer, np.ndarray], tuple[float, int] | None]
    at_rows: Callable[[InputQuantizer, mx.array, mx.array, mx.array], mx.array | None]
    measured: Callable[[InputQuantizer, mx.array], mx.array] | None = None


def measure_row_step(quantizer: InputQuantizer, x: mx.array, steps: mx.array, sigma_index: mx.array) -> mx.array:
    """Step size of each token of x, or of its groups of channels, without a gradient."""
    return compute_token_step(mx.stop_gradient(x), quantizer.bit_width, quantizer.group_size)


def round_symmetric(quantizer: InputQuantizer, x: mx.array) -> mx.array:
    """x on a symmetric grid of each token or group."""
    return round_tokens(x, quantizer.bit_width, quantizer.group_size, False)


def round_centred(quantizer: InputQuantizer, x: mx.array) -> mx.array:
    """x on a grid with a zero point of each token or group."""
    return round_tokens(x, quantizer.bit_width, quantizer.group_size, True)


POLICIES = {
    "none": Policy(
        False,
        at_level=lambda quantizer, weights: None,
        at_rows=lambda quantizer, x, steps, sigma_index: None,
    ),
    "dynamic": Policy(False, lambda quantizer, weights: None, measure_row_step, round_symmetric),
    "affine": Policy(False, lambda quantizer, weights: None, measure_row_step, round_centred),
    "static": Policy(
        True,
        at_level=lambda quantizer, weights: (float(quantizer.step_sizes[0]), quantizer.bit_width),
        at_rows=lambda quantizer, x, steps, sigma_index: steps.reshape(1, 1, 1),
    ),
    "lut": Policy(
        True,
        at_level=lambda quantizer, weights: look_up_step(weights, quantizer.step_sizes, quantizer.bits),
        at_rows=lambda quantizer, x, steps, sigma_index: steps[sigma_index].reshape(-1, 1, 1),
    ),
}


def has_steps(rule: InputRule) -> bool:
    """True if an input quantized by `rule` has stored step sizes."""
    return rule["bits"] != UNQUANTIZED and POLICIES[rule["policy"]].has_steps


def create_quantizer(
    rule: InputRule,
    steps: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    migration: np.ndarray | None = None,
) -> InputQuantizer:
    """Quantizer by `rule`; arrays: those stored. Raises ValueError without the step sizes that its policy stores."""
    if rule["bits"] == UNQUANTIZED:
        return InputQuantizer()
    if has_steps(rule):
        return InputQuantizer(rule["policy"], rule["bits"], steps, shift, migration)
    return InputQuantizer(rule["policy"], rule["bits"], group_size=rule["group_size"])


def store_steps(steps: np.ndarray, policy: str) -> np.ndarray:
    """Step sizes (K,) of all noise levels as `policy` stores them: the largest, (1,), for `static`."""
    if policy != "static":
        return steps
    largest: np.ndarray = steps.max(keepdims=True)
    return largest
