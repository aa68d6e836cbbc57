"""Quality against size: Pareto frontier of a family of quantization variants, and the bits that another one saves."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from taqmlx.planning.evaluation_documents import Interval, WayQuality

OTHERWISE = 5.0  # dB; an image below it shows something else than the full-precision image
RESAMPLES = 1000
LOW = 0.05  # share of images below the low quantile


class Frontier(NamedTuple):
    """Best quality at each size: bits per weight and quality in dB, (n,) each, both ascending."""

    bits: np.ndarray
    quality: np.ndarray


def trace_frontier(bits: np.ndarray, quality: np.ndarray) -> Frontier:
    """Variants, from bits and quality (V,), whose quality no other variant of at most their size reaches."""
    order = np.lexsort((-quality, bits))
    best = np.maximum.accumulate(quality[order])
    kept = np.append(True, best[1:] > best[:-1])
    return Frontier(bits[order][kept], best[kept])


def find_bits(frontier: Frontier, quality: float) -> float:
    """Bits per weight at which `frontier` has `quality`, linear between its points and constant beyond its ends."""
    return float(np.interp(quality, frontier.quality, frontier.bits))


def measure_saving(bits: float, ratios: np.ndarray, others: np.ndarray, other_ratios: np.ndarray, low: bool) -> float:
    """Bits per weight saved by a variant of `bits`: the bits the others need for its quality, minus its own.

    ratios (P,) and other_ratios (V, P): signal-to-noise ratios in dB of the same images; others (V,): bits per weight;
    low: quality is the low quantile instead of the median.
    """
    quality = summarise(ratios[None], low)[0]
    return find_bits(trace_frontier(others, summarise(other_ratios, low)), quality) - bits


def summarise(ratios: np.ndarray, low: bool) -> np.ndarray:
    """Median, or low quantile, of each row of ratios (V, P), (V,)."""
    quality: np.ndarray = np.quantile(ratios, LOW, axis=1) if low else np.median(ratios, axis=1)
    return quality


def describe_saving(
    bits: float, ratios: np.ndarray, others: np.ndarray, other_ratios: np.ndarray, low: bool, seed: int
) -> Interval:
    """`value` of `measure_saving` and its 95 % interval, by a bootstrap over images that all variants share."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(ratios), size=len(ratios))
        found.append(measure_saving(bits, ratios[drawn], others, other_ratios[:, drawn], low))
    value = measure_saving(bits, ratios, others, other_ratios, low)
    return {"value": value, "interval_95": np.quantile(found, (0.025, 0.975)).tolist()}


def describe_quality(ratios: np.ndarray, seed: int) -> WayQuality:
    """Median, low quantile and share of images below OTHERWISE, of ratios (P,), with 95 % intervals."""
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))

    def estimate(measure: Callable[[np.ndarray], np.ndarray]) -> Interval:
        ends = np.quantile(measure(ratios[drawn]), (0.025, 0.975))
        return {"value": float(measure(ratios[None])[0]), "interval_95": ends.tolist()}

    return {
        "median": estimate(lambda rows: summarise(rows, False)),
        "p5": estimate(lambda rows: summarise(rows, True)),
        "otherwise": estimate(lambda rows: (rows < OTHERWISE).mean(axis=1)),
    }
