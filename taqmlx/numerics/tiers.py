"""How few bits suffice: for what a layer reads at each noise level, and for its weights.

An error here is relative, a squared error over the square of what is right; d dB below it means 10^(-d / 10).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from taqmlx.numerics.activation import SMALLEST_STEP, find_largest_code
from taqmlx.numerics.knots import find_nearest_knot

TIERS = (4, 6, 8)
WEIGHT_BITS = (2, 4, 6, 8)
FAR_ABOVE_TYPICAL = 5.0  # times the median channel
FEW_CHANNELS = 0.05
SPIKE = 5.0  # times the 99 % channel


def to_decibels(errors: np.ndarray | Sequence[float] | float) -> np.ndarray:
    """How far below what is right relative `errors` (any shape) lie, in dB, float64; at most some 3000."""
    return -10 * np.log10(np.maximum(np.asarray(errors, np.float64), np.finfo(np.float64).tiny))


def take_fewest(errors: Mapping[int, np.ndarray | float], budget: float) -> np.ndarray:
    """The fewest bits whose error lies at least `budget` dB below what is right, and the most where none do.

    errors: relative ones by bits, all of one shape, which is that of the result, int64.
    """
    choices = sorted(errors)
    fits = np.stack([to_decibels(errors[bits]) >= budget for bits in choices])
    fits[-1] = True
    fewest: np.ndarray = np.array(choices)[fits.argmax(axis=0)]
    return fewest


def take_by_threshold(magnitudes: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Bits by the largest magnitudes (K,): 4 below the first of two thresholds, 6 below the second, else 8."""
    return np.array(TIERS)[np.searchsorted(thresholds, magnitudes, side="right")]


def move_to_knots(values: np.ndarray, knots: Sequence[float], sigmas: Sequence[float]) -> np.ndarray:
    """`values` (J,) known at `knots` (J,), each of `sigmas` (K,) taking that of the nearest knot: (K,)."""
    return np.asarray(values)[[find_nearest_knot(sigma, np.asarray(knots)) for sigma in sigmas]]


def measure_channels(
    minimum: np.ndarray, maximum: np.ndarray, shift: np.ndarray | None, migration: np.ndarray | None
) -> np.ndarray:
    """The largest |x - z| / m of every channel, (S, D), exactly, from extremes (S, D), z (D,) and m (D,) or None."""
    middle = 0.0 if shift is None else shift
    reached: np.ndarray = np.maximum(np.abs(minimum - middle), np.abs(maximum - middle))
    migrated: np.ndarray = reached / (1 if migration is None else migration)
    return migrated


def find_spikes(channels: np.ndarray) -> np.ndarray:
    """Where scaling a few channels down (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438) could help, bool (S,).

    That is where some channels but not more than 5 % have over 5 times the magnitude of the median one, and the largest
    over 5 times that which 99 % do not exceed. channels: magnitudes (S, D).
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

    Where bits are taken away the grid reaches the share `clips` has for them of the largest magnitudes (K,), the whole
    without one, but no further than it did: what was learned for more bits may cut off more.
    """
    reach = steps.astype(np.float64) * find_largest_code(own)
    share = np.array([clips.get(int(b), 1.0) for b in bits])
    narrowed = np.minimum(reach, share * magnitudes) / find_largest_code(bits)
    return np.where(bits == own, steps, np.maximum(narrowed, SMALLEST_STEP).astype(np.float32))
