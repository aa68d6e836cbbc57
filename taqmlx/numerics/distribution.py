"""Distances between two sets of feature vectors: Fréchet and kernel distances, with bootstrap intervals. All in fp64.

Every distance takes row weights (the count of each row), so that a bootstrap draws counts and copies no features.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 200
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


class Gaussian(NamedTuple):
    """Normal distribution of features: mean (d,), and `root` R (k, d) with covariance R^T R."""

    mean: np.ndarray
    root: np.ndarray


def fit_gaussian(x: np.ndarray, weights: np.ndarray) -> Gaussian:
    """Normal distribution of rows x (n, d) with counts `weights` (n,), with unbiased covariance."""
    total = weights.sum()
    mean = weights @ x / total
    centred = np.sqrt(weights / (total - 1))[:, None] * (x - mean)
    # NumPy's stubs lack mode "r".
    return Gaussian(mean, np.linalg.qr(centred, mode="r"))  # type: ignore[arg-type]


def measure_frechet(x: Gaussian, y: Gaussian) -> float:
    """Fréchet distance of FID: |mean_x - mean_y|^2 + Tr(C_x + C_y - 2 (C_x C_y)^(1/2)).

    Heusel et al. 2017 (arXiv 1706.08500), equation 6. With C = R^T R, the trace of the square root is the sum of the
    singular values of R_x R_y^T; this needs no matrix square root and is exact for fewer rows than features.
    """
    shared = np.linalg.svd(x.root @ y.root.T, compute_uv=False).sum()
    spread = np.square(x.root).sum() + np.square(y.root).sum() - 2 * shared
    return float(max(np.square(x.mean - y.mean).sum() + spread, 0.0))


def compute_cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kernel of KID, (x y^T / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401), (n, m)."""
    kernel: np.ndarray = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def compute_gaussian_kernel(x: np.ndarray, y: np.ndarray, sigma: float = CMMD_SIGMA) -> np.ndarray:
    """Kernel of CMMD, exp(-|x - y|^2 / (2 sigma^2)) (Jayasumana et al. 2024, arXiv 2401.09603), (n, m)."""
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1) - 2 * x @ y.T
    kernel: np.ndarray = np.exp(-np.maximum(squares, 0) / (2 * sigma**2))
    return kernel


def measure_unbiased(kernels: tuple[np.ndarray, ...], weigh_x: np.ndarray, weigh_y: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy from k(x, x), k(y, y) and k(x, y), without self-pairs of rows."""
    within = [
        (weights @ kernel @ weights - np.square(weights) @ np.diag(kernel))
        / (weights.sum() ** 2 - np.square(weights).sum())
        for kernel, weights in zip(kernels, (weigh_x, weigh_y), strict=False)
    ]
    return float(sum(within) - 2 * weigh_x @ kernels[2] @ weigh_y / (weigh_x.sum() * weigh_y.sum()))


def measure_paired(kernels: tuple[np.ndarray, ...], weights: np.ndarray, _: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of paired rows, n = m, without pairs of partners either.

    Equal sets have distance 0 exactly. Gretton et al. 2012 (JMLR 13), the U-statistic of equation 3 for n = m.
    """
    differences = kernels[0] + kernels[1] - kernels[2] - kernels[2].T
    apart = weights.sum() ** 2 - np.square(weights).sum()
    return float((weights @ differences @ weights - np.square(weights) @ np.diag(differences)) / apart)


def measure_biased(kernels: tuple[np.ndarray, ...], weigh_x: np.ndarray, weigh_y: np.ndarray) -> float:
    """Squared maximum mean discrepancy over all pairs, as in CMMD, from kernels k(x, x), k(y, y), k(x, y)."""
    share_x, share_y = weigh_x / weigh_x.sum(), weigh_y / weigh_y.sum()
    within = share_x @ kernels[0] @ share_x + share_y @ kernels[1] @ share_y
    return float(max(within - 2 * share_x @ kernels[2] @ share_y, 0.0))


def compute_kernels(
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel matrices k(x, x), k(y, y) and k(x, y)."""
    return kernel(x, x), kernel(y, y), kernel(x, y)


def measure_kernel_distance(x: np.ndarray, y: np.ndarray, subsets: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """KID: mean unbiased discrepancy over `subsets`, pairs of row indices into x (n, d) and y (m, d)."""
    found = []
    for rows_x, rows_y in subsets:
        kernels = compute_kernels(compute_cubic_kernel, x[rows_x], y[rows_y])
        found.append(measure_unbiased(kernels, np.ones(len(rows_x)), np.ones(len(rows_y))))
    return float(np.mean(found))


def measure_cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """CMMD of unit vectors x (n, d) and y (m, d): 1000 times the biased discrepancy under the Gaussian kernel."""
    kernels = compute_kernels(compute_gaussian_kernel, x, y)
    return CMMD_SCALE * measure_biased(kernels, np.ones(len(x)), np.ones(len(y)))


def repeat_median(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Median of `values` (n,) in each bootstrap sample of counts (resamples, n), (resamples,) float64."""
    return np.array([np.median(np.repeat(values, row.astype(int))) for row in counts])


def draw_counts(prompts: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Count of each image in each bootstrap sample of the prompts, (at most resamples, n) float64.

    prompts (n,): index of each image's prompt. Images of one prompt are drawn together.
    """
    _, own = np.unique(prompts, return_inverse=True)
    count = own.max() + 1
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    counts: np.ndarray = np.stack([np.bincount(row, minlength=count) for row in drawn])
    # A sample of a single prompt has no other prompt to be compared with.
    kept: np.ndarray = counts[(counts > 0).sum(axis=1) >= min(2, count)]
    return kept[:, own].astype(np.float64)


def find_interval(values: np.ndarray) -> list[float | None]:
    """2.5th and 97.5th percentile of bootstrap values; None for one that is not finite."""
    ends = np.quantile(values, (0.025, 0.975), method="nearest")
    return [float(end) if np.isfinite(end) else None for end in ends]


def find_centred_interval(values: np.ndarray, value: float, least: float = -np.inf) -> list[float]:
    """95 % interval of a distance with biased bootstrap values: their spread, centred on `value`.

    Resampling repeats rows, so a resampled set has less spread than the original. `least` is the lower bound.
    """
    low, high = np.quantile(values, (0.025, 0.975)) - np.mean(values) + value
    return [float(max(low, least)), float(high)]
