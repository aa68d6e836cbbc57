"""Quality against size: the frontier of a family of ways to quantize, and the bits that another way saves."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

OTHERWISE = 5.0  # dB: pictures below it show something else than full precision's
RESAMPLES = 1000
LOW = 0.05  # the share of pictures below the low quantile


class Frontier(NamedTuple):
    """The best quality at each size: bits per weight and quality in dB, (n,) each, both ascending."""

    bits: np.ndarray
    quality: np.ndarray


def trace_frontier(bits: np.ndarray, quality: np.ndarray) -> Frontier:
    """Those of the ways, bits and quality (V,), that no other of at most their size equals."""
    order = np.lexsort((-quality, bits))
    best = np.maximum.accumulate(quality[order])
    kept = np.append(True, best[1:] > best[:-1])
    return Frontier(bits[order][kept], best[kept])


def find_bits(frontier: Frontier, quality: float) -> float:
    """The bits per weight at which `frontier` has `quality`, linear between its points; no further than its ends."""
    return float(np.interp(quality, frontier.quality, frontier.bits))


def measure_saving(bits: float, ratios: np.ndarray, others: np.ndarray, other_ratios: np.ndarray, low: bool) -> float:
    """The bits per weight that a way of `bits` saves: what the others need for its quality, less its own.

    ratios (P,) and other_ratios (V, P): signal-to-noise ratios in dB of the same pictures; others (V,): bits per
    weight; low: the quality is the low quantile, else the median.
    """
    quality = summarise(ratios[None], low)[0]
    return find_bits(trace_frontier(others, summarise(other_ratios, low)), quality) - bits


def summarise(ratios: np.ndarray, low: bool) -> np.ndarray:
    """The median, or the low quantile, of each row of ratios (V, P), (V,)."""
    quality: np.ndarray = np.quantile(ratios, LOW, axis=1) if low else np.median(ratios, axis=1)
    return quality


def describe_saving(
    bits: float, ratios: np.ndarray, others: np.ndarray, other_ratios: np.ndarray, low: bool, seed: int
) -> dict[str, object]:
    """`value` of `measure_saving` with its 95 % interval, by a bootstrap of the pictures, the same for all ways."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(ratios), size=len(ratios))
        found.append(measure_saving(bits, ratios[drawn], others, other_ratios[:, drawn], low))
    value = measure_saving(bits, ratios, others, other_ratios, low)
    return {"value": value, "interval_95": np.quantile(found, (0.025, 0.975)).tolist()}


def describe_quality(ratios: np.ndarray, seed: int) -> dict[str, object]:
    """Median, low quantile and share of pictures that turn out otherwise, of ratios (P,), with 95 % intervals."""
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    measures: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "median": lambda rows: summarise(rows, False),
        "p5": lambda rows: summarise(rows, True),
        "otherwise": lambda rows: (rows < OTHERWISE).mean(axis=1),
    }
    return {
        name: {
            "value": float(measure(ratios[None])[0]),
            "interval_95": np.quantile(measure(ratios[drawn]), (0.025, 0.975)).tolist(),
        }
        for name, measure in measures.items()
    }
