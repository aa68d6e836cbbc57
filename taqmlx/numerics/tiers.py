"""Fewest sufficient bits: for a layer's input at each noise level, and for its weights.

Errors are relative: squared error over the square of the reference; an error d dB below the reference is 10^(-d / 10).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from taqmlx.numerics.activation import SMALLEST_STEP, find_largest_code
from taqmlx.numerics.sigma_lookup import find_nearest_knot

TIERS = (4, 6, 8)  # candidate input bits
WEIGHT_BITS = (2, 4, 6, 8)
FAR_ABOVE_TYPICAL = 5.0  # times the median over channels
FEW_CHANNELS = 0.05
SPIKE = 5.0  # times the 99 % quantile over channels


def to_decibels(errors: np.ndarray | Sequence[float] | float) -> np.ndarray:
    """Distance of relative `errors` (any shape) below the reference in dB, float64; at most about 3000."""
    return -10 * np.log10(np.maximum(np.asarray(errors, np.float64), np.finfo(np.float64).tiny))


def take_fewest(errors: Mapping[int, np.ndarray | float], budget: float) -> np.ndarray:
    """Fewest bits whose error is at least `budget` dB below the reference; the most bits if none meets the budget.

    errors: relative errors by bits, all of one shape, which is the shape of the result, int64.
    """
    choices = sorted(errors)
    fits = np.stack([to_decibels(errors[bits]) >= budget for bits in choices])
    fits[-1] = True
    fewest: np.ndarray = np.array(choices)[fits.argmax(axis=0)]
    return fewest


def take_by_threshold(magnitudes: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Bits by absmax (K,): 4 below the first of two thresholds, 6 below the second, 8 otherwise."""
    return np.array(TIERS)[np.searchsorted(thresholds, magnitudes, side="right")]


def move_to_knots(values: np.ndarray, knots: Sequence[float], sigmas: Sequence[float]) -> np.ndarray:
    """`values` (J,) known at `knots` (J,), looked up at the knot nearest to each of `sigmas` (K,): (K,)."""
    return np.asarray(values)[[find_nearest_knot(sigma, np.asarray(knots)) for sigma in sigmas]]


def measure_channels(
    minimum: np.ndarray, maximum: np.ndarray, shift: np.ndarray | None, migration: np.ndarray | None
) -> np.ndarray:
    """Largest |x - z| / m of every channel, (S, D), exact, from extremes (S, D), z (D,) and m (D,) or None."""
    middle = 0.0 if shift is None else shift
    reached: np.ndarray = np.maximum(np.abs(minimum - middle), np.abs(maximum - middle))
    migrated: np.ndarray = reached / (1 if migration is None else migration)
    return migrated


def find_spikes(channels: np.ndarray) -> np.ndarray:
    """Mask of steps where scaling down a few channels (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438) could help.

    Returns bool (S,), from channel absmax `channels` (S, D). True if at least one but at most 5 % of the channels
    exceed 5 times the median, and the largest exceeds 5 times the 99 % quantile.
    """
    largest, typical = channels.max(axis=1), np.median(channels, axis=1)
    high = np.quantile(channels, 0.99, axis=1, method="lower")
    share = (channels > FAR_ABOVE_TYPICAL * typical[:, None]).mean(axis=1)
    spiking: np.ndarray = (share > 0) & (share <= FEW_CHANNELS) & (largest > SPIKE * high)
    return spiking


def narrow_steps(
    steps: np.ndarray, own: int, bits: np.ndarray, magnitudes: np.ndarray, clips: Mapping[int, float]
) -> np.ndarray:
    """Step sizes float32 (K,) for `bits` (K,), from those for `own` bits.

    Where bits are reduced, the clipping range is the share `clips` of the absmax `magnitudes` (K,), the whole absmax if
    `clips` has no entry for these bits, but at most the previous range: a range learned for more bits may clip more.
    """
    range_width = steps.astype(np.float64) * find_largest_code(own)
    share = np.array([clips.get(int(b), 1.0) for b in bits])
    narrowed = np.minimum(range_width, share * magnitudes) / find_largest_code(bits)
    return np.where(bits == own, steps, np.maximum(narrowed, SMALLEST_STEP).astype(np.float32))
