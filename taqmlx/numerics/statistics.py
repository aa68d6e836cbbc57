"""Mergeable statistics of what a linear layer reads, per channel.

Extremes are exact. Moments are float64 sums over rows whose own mean and variance MLX takes in fp32 (a row is a few
hundred tokens at most), merged by the pairwise update of Chan, Golub & LeVeque (1979), so neither the batching nor the
number of parts shows in the result beyond rounding.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import mlx.core as mx
import numpy as np


class ChannelStatistics(NamedTuple):
    """Statistics of N rows of D channels: counts int, extremes float32 (D,), moments float64 (D,).

    `squares` is the sum of squared deviations from the mean; `negatives` counts values below zero in all channels.
    """

    rows: int
    negatives: int
    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    squares: np.ndarray


def reduce_tokens(x: mx.array) -> dict[str, mx.array]:
    """The lazy reductions of a batch `x` (B, N, D).

    Extremes (D,), mean and variance over tokens (B, D), and the count of negatives ().
    """
    x = x.astype(mx.float32)
    return {
        "minimum": mx.min(x, axis=(0, 1)),
        "maximum": mx.max(x, axis=(0, 1)),
        "mean": mx.mean(x, axis=1),
        "variance": mx.var(x, axis=1),
        "negatives": mx.sum(x < 0),
    }


def combine_rows(reduced: dict[str, np.ndarray], tokens: int) -> ChannelStatistics:
    """The statistics of a batch from its reductions as NumPy arrays, `tokens` in each row of the batch."""
    means = reduced["mean"].astype(np.float64)
    mean = means.mean(axis=0)
    with np.errstate(invalid="ignore"):  # infinities are the caller's to refuse
        within = reduced["variance"].astype(np.float64).sum(axis=0)
        between = np.square(means - mean).sum(axis=0)
    return ChannelStatistics(
        rows=tokens * len(means),
        negatives=int(reduced["negatives"]),
        minimum=reduced["minimum"],
        maximum=reduced["maximum"],
        mean=mean,
        squares=tokens * (within + between),
    )


def create_empty(channels: int) -> ChannelStatistics:
    """The statistics of no rows: the neutral element of `merge`."""
    infinite = np.full(channels, np.inf, np.float32)
    return ChannelStatistics(0, 0, infinite, -infinite, np.zeros(channels), np.zeros(channels))


def merge_pair(a: ChannelStatistics, b: ChannelStatistics) -> ChannelStatistics:
    """The statistics of the rows of `a` and `b` together (Chan et al. 1979, eq. 2.1)."""
    rows = a.rows + b.rows
    if rows == 0:
        return a
    delta = b.mean - a.mean
    return ChannelStatistics(
        rows=rows,
        negatives=a.negatives + b.negatives,
        minimum=np.minimum(a.minimum, b.minimum),
        maximum=np.maximum(a.maximum, b.maximum),
        mean=a.mean + delta * (b.rows / rows),
        squares=a.squares + b.squares + np.square(delta) * (a.rows * b.rows / rows),
    )


def merge(parts: Iterable[ChannelStatistics]) -> ChannelStatistics:
    """The statistics of all rows of `parts` together. Raises TypeError if there is no part."""
    return reduce(merge_pair, parts)


def compute_deviation(statistics: ChannelStatistics) -> np.ndarray:
    """The standard deviation of each channel (population), float64 (D,)."""
    return np.sqrt(statistics.squares / max(statistics.rows, 1))


def describe_tensor(statistics: ChannelStatistics) -> dict[str, float]:
    """The scalars of the whole tensor: min, max, absmax, mean, std and the share of negative values."""
    low, high = float(statistics.minimum.min()), float(statistics.maximum.max())
    mean = statistics.mean.mean()
    variance = statistics.squares.mean() / statistics.rows + np.square(statistics.mean - mean).mean()
    return {
        "min": low,
        "max": high,
        "absmax": max(abs(low), abs(high)),
        "mean": float(mean),
        "std": float(np.sqrt(variance)),
        "negative_share": statistics.negatives / (statistics.rows * len(statistics.mean)),
    }


def compute_shift(minimum: np.ndarray, maximum: np.ndarray) -> np.ndarray:
    """The static shift z of each channel, float32 (D,), from its extremes at each step (S, D).

    The mean over steps of the channel's middle, as TaQ-DiT's post-GELU shift (arXiv:2411.14172, sec. on momentum-based
    shifting), whose moving average over batches depends on their order; this mean does not, and it merges.
    """
    middle: np.ndarray = (minimum.astype(np.float64) + maximum) / 2
    shift: np.ndarray = middle.mean(axis=0)
    return shift.astype(np.float32)


def compute_shifted_absmax(minimum: np.ndarray, maximum: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The largest |x - shift| at each step, float32 (S,), exactly, from channel extremes (S, D) and `shift` (D,)."""
    reached: np.ndarray = np.maximum(np.abs(minimum - shift), np.abs(maximum - shift)).max(axis=-1)
    return reached
