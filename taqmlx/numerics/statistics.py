"""Mergeable per-channel statistics of layer inputs.

Extremes are exact. Moments are float64 sums over rows; MLX computes the mean and variance within a row (a few hundred
tokens at most) in fp32. They are merged by the pairwise update of Chan, Golub & LeVeque (1979), so that batching and
sharding change the result by rounding errors only.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import mlx.core as mx
import numpy as np


class ChannelStatistics(NamedTuple):
    """Statistics of N rows of D channels: counts int, extremes float32 (D,), moments float64 (D,).

    `squares` is the sum of squared deviations from the mean; `negatives` counts negative values over all channels.
    """

    rows: int
    negatives: int
    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    squares: np.ndarray


def reduce_tokens(x: mx.array) -> dict[str, mx.array]:
    """Lazy reductions of a batch `x` (B, N, D).

    Extremes (D,), mean and variance over tokens (B, D), and the count of negative values ().
    """
    x = x.astype(mx.float32)
    mean = mx.mean(x, axis=1)
    return {
        "minimum": mx.min(x, axis=(0, 1)),
        "maximum": mx.max(x, axis=(0, 1)),
        "mean": mean,
        "variance": mx.mean(mx.square(x - mean[:, None]), axis=1),  # `mx.var` would compute the mean again
        "negatives": mx.sum(x < 0),
    }


def combine_rows(reduced: dict[str, np.ndarray], tokens: int) -> ChannelStatistics:
    """Statistics of a batch from its reductions as NumPy arrays; each row of the batch has `tokens` tokens."""
    means = reduced["mean"].astype(np.float64)
    mean = means.mean(axis=0)
    with np.errstate(invalid="ignore"):  # the caller rejects infinities
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
    """Statistics of no rows, the identity of `merge`."""
    infinite = np.full(channels, np.inf, np.float32)
    return ChannelStatistics(0, 0, infinite, -infinite, np.zeros(channels), np.zeros(channels))


def merge_pair(a: ChannelStatistics, b: ChannelStatistics) -> ChannelStatistics:
    """Statistics of the rows of `a` and `b` together (Chan et al. 1979, eq. 2.1)."""
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
    """Statistics of all rows of `parts` together. Raises TypeError if `parts` is empty."""
    return reduce(merge_pair, parts)


def compute_deviation(statistics: ChannelStatistics) -> np.ndarray:
    """Population standard deviation of each channel, float64 (D,)."""
    return np.sqrt(statistics.squares / max(statistics.rows, 1))


def describe_tensor(statistics: ChannelStatistics) -> dict[str, float]:
    """Scalars of the whole tensor: min, max, absmax, mean, std and the share of negative values."""
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
    """Static shift z of each channel, float32 (D,), from its extremes at each step (S, D).

    z is the mean over steps of the channel's midpoint. It follows the post-GELU shift of TaQ-DiT (arXiv:2411.14172,
    sec. on momentum-based shifting), whose moving average depends on the order of batches; this mean does not, and it
    can be merged.
    """
    middle: np.ndarray = (minimum.astype(np.float64) + maximum) / 2
    shift: np.ndarray = middle.mean(axis=0)
    return shift.astype(np.float32)


def compute_shifted_absmax(minimum: np.ndarray, maximum: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Largest |x - shift| at each step, float32 (S,), exact, from channel extremes (S, D) and `shift` (D,)."""
    reached: np.ndarray = np.maximum(np.abs(minimum - shift), np.abs(maximum - shift)).max(axis=-1)
    return reached
