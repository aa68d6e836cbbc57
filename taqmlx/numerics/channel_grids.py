"""Channel ranges of a layer input beside its grid: how much of the grid each channel uses."""

from typing import NamedTuple

import numpy as np

from taqmlx.numerics.activation import find_largest_code
from taqmlx.numerics.token_rounding import PER_TOKEN
from taqmlx.planning.layer_rules import MEASURED_POLICIES, UNQUANTIZED, InputRule


class ChannelGrid(NamedTuple):
    """Largest value float64 (D,) of the grid of each channel, without clipping, and the grid's largest code.

    The code is None for an input that is not quantized. Channels share a grid with those of their group, or with all.
    A step size is the largest value over the largest code: of a dynamic policy, the largest of all tokens; of a table
    of noise levels, the largest of all levels. With a zero point, it is smaller for a group of values of one sign.
    """

    ends: np.ndarray
    largest: int | None

    @property
    def steps(self) -> np.ndarray | None:
        """Step size (D,) of each channel; None for an input that is not quantized."""
        return None if self.largest is None else self.ends / self.largest


def place_grid(absmax: np.ndarray, rule: InputRule) -> ChannelGrid:
    """The grid of an input with the channels' `absmax` (D,), by its rule."""
    if rule["bits"] == UNQUANTIZED:
        return ChannelGrid(np.full(len(absmax), absmax.max(), np.float64), None)
    own = rule["group_size"] if rule["policy"] in MEASURED_POLICIES else PER_TOKEN
    span = len(absmax) if own == PER_TOKEN else own
    ends = np.repeat(absmax.reshape(-1, span).max(axis=1).astype(np.float64), span)
    return ChannelGrid(ends, find_largest_code(rule["bits"]))


def measure_unused(absmax: np.ndarray, grid: ChannelGrid) -> np.ndarray:
    """Bits of its grid that each channel does not use, log2 of the grid's largest value over its absmax (D,).

    Channels that are zero are left out.
    """
    used = absmax > 0
    unused: np.ndarray = np.log2(grid.ends[used] / absmax[used])
    return unused


def measure_lost(absmax: np.ndarray, grid: ChannelGrid) -> float | None:
    """Share of the channels that are not zero but below half a step; None without a grid."""
    return None if grid.steps is None else float(((absmax > 0) & (absmax < grid.steps / 2)).mean())


def measure_spread(absmax: np.ndarray) -> float:
    """Largest absmax over the median one; infinite if most channels are zero."""
    median = float(np.median(absmax))
    return float(absmax.max()) / median if median else float("inf")
