"""Comparison of two picture sets: distances between sets, pairwise measures, and their intervals.

Intervals are 95 %, from a bootstrap over prompts: `counts` (resamples, n) are the multiplicities of the pictures in
each resample.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from taqmlx.evaluation.distances import compute_fid, compute_kid, compute_paired_kid, compute_ssim
from taqmlx.numerics.distribution import (
    CMMD_SCALE,
    compute_cubic_kernel,
    compute_gaussian_kernel,
    compute_kernels,
    find_centred_interval,
    find_interval,
    fit_gaussian,
    measure_biased,
    measure_cmmd,
    measure_frechet,
    measure_paired,
    measure_unbiased,
    repeat_median,
)
from taqmlx.numerics.frontier import OTHERWISE
from taqmlx.numerics.quality import measure_psnr, measure_snr
from taqmlx.planning.evaluation_documents import Metrics

Measured = Metrics
PairMeasure = Callable[[np.ndarray, np.ndarray], np.ndarray]


def compare_with_fixed(found: np.ndarray, reference: np.ndarray, counts: np.ndarray, seed: int) -> dict[str, Measured]:
    """FID and KID between features (n, d) and a reference (m, d) that is fixed under resampling."""
    x, y = found.astype(np.float64), reference.astype(np.float64)
    ones = np.ones(len(y))
    fixed, kernels = fit_gaussian(y, ones), compute_kernels(compute_cubic_kernel, x, y)
    fids = np.array([measure_frechet(fit_gaussian(x, row), fixed) for row in counts])
    kids = np.array([measure_unbiased(kernels, row, ones) for row in counts])
    fid, kid = compute_fid(found, reference), compute_kid(found, reference, seed)
    return describe_distances(fid, fids, kid, kids, len(found))


def compare_with_partners(found: np.ndarray, reference: np.ndarray, counts: np.ndarray) -> dict[str, Measured]:
    """FID and KID between features (n, d) and those of their partners (n, d), resampled together."""
    x, y = found.astype(np.float64), reference.astype(np.float64)
    kernels = compute_kernels(compute_cubic_kernel, x, y)
    fids = np.array([measure_frechet(fit_gaussian(x, row), fit_gaussian(y, row)) for row in counts])
    kids = np.array([measure_paired(kernels, row, row) for row in counts])
    return describe_distances(
        compute_fid(found, reference), fids, compute_paired_kid(found, reference), kids, len(found)
    )


def describe_distances(fid: float, fids: np.ndarray, kid: float, kids: np.ndarray, count: int) -> dict[str, Measured]:
    """FID and KID with their intervals. FID is clipped at 0, which rounding may undershoot for equal sets."""
    return {
        "fid": {
            "value": max(fid, 0.0),
            "interval_95": find_centred_interval(fids, max(fid, 0.0), least=0.0),
            "n": count,
        },
        "kid": {"value": kid, "interval_95": find_centred_interval(kids, kid), "n": count},
    }


def compare_by_clip(found: np.ndarray, reference: np.ndarray, counts: np.ndarray, reference_counts: Any) -> Measured:
    """CMMD between unit vectors (n, d) and those of the reference (m, d), resampled with (resamples, m) counts."""
    x, y = found.astype(np.float64), reference.astype(np.float64)
    kernels, value = compute_kernels(compute_gaussian_kernel, x, y), measure_cmmd(x, y)
    drawn = np.array(
        [CMMD_SCALE * measure_biased(kernels, *rows) for rows in zip(counts, reference_counts, strict=True)]
    )
    return {"value": value, "interval_95": find_centred_interval(drawn, value, least=0.0), "n": len(found)}


def measure_each(measure: Callable[..., float]) -> PairMeasure:
    """Apply a measure of two arrays to each of many pairs, (n,) float64."""
    return lambda found, reference: np.array([measure(*pair) for pair in zip(found, reference, strict=True)])


# name: (measure of picture pairs, function that selects the worst value)
PICTURE_MEASURES: dict[str, tuple[PairMeasure, Callable[..., float]]] = {
    "psnr_db": (measure_each(lambda found, reference: measure_psnr(found, reference)), np.min),
    "ssim": (compute_ssim, np.min),
}
LATENT_MEASURES: dict[str, tuple[PairMeasure, Callable[..., float]]] = {
    "latent_snr_db": (measure_each(measure_snr), np.min),
}


def describe_pairs(
    measures: dict[str, tuple[PairMeasure, Callable[..., float]]],
    found: np.ndarray,
    reference: np.ndarray,
    counts: np.ndarray,
) -> dict[str, Measured]:
    """Each measure of pairs (n, ...): median with interval, worst value, and number of pairs that are equal."""
    equal = int((found == reference).reshape(len(found), -1).all(axis=1).sum())
    described = {}
    for name, (measure, find_worst) in measures.items():
        values = measure(found, reference)
        described[name] = summarise(values, counts) | {"worst": say_finite(find_worst(values)), "equal": equal}
    return described


def summarise(values: np.ndarray, counts: np.ndarray) -> Measured:
    """Median of values (n,), which may be infinite, with its interval."""
    return {
        "median": say_finite(np.median(values)),
        "interval_95": find_interval(repeat_median(values, counts)),
        "n": len(values),
    }


def describe_share(right: np.ndarray, counts: np.ndarray) -> Measured:
    """Share of correct pictures (n,) bool, with its interval."""
    drawn = counts[counts.sum(axis=1) > 0]  # a resample of a small set may be empty
    drawn = drawn @ right / drawn.sum(axis=1)
    return {"value": float(right.mean()), "interval_95": find_interval(drawn), "n": len(right)}


def describe_otherwise(found: np.ndarray, reference: np.ndarray, counts: np.ndarray) -> Measured:
    """Share of latents (n, ...) with an SNR to their partners below OTHERWISE dB, with its interval."""
    measure, _ = LATENT_MEASURES["latent_snr_db"]
    return describe_share(measure(found, reference) < OTHERWISE, counts)


def describe_growth(values: list[list[float | None]], counts: np.ndarray) -> dict[str, list[Any]]:
    """Median and interval of each step's values (steps, n); null for equal latents."""
    table = [np.array([np.inf if value is None else value for value in step]) for step in values]
    summaries = [summarise(step, counts) for step in table]
    return {key: [summary[key] for summary in summaries] for key in ("median", "interval_95")}


def say_finite(value: float) -> float | None:
    """Convert a number; None if it is infinite, which JSON cannot represent."""
    return float(value) if np.isfinite(value) else None
