"""Vectors of exact folds: scales of channels, orders of channels, and Hadamard rotations."""

import numpy as np

LARGEST_EXPONENT = 10  # of a scale: fp16 holds the weights that remain


def choose_scales(absmax: np.ndarray, weight: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Divisors (D,) of an input's channels, absmax^alpha / weight^beta over their geometric mean, as powers of two.

    absmax, weight (D,): of the channels and of the columns that read them. Powers of two round no weight. A channel
    that is zero in either keeps the mean scale.
    """
    is_used = (absmax > 0) & (weight > 0)
    exponents = np.zeros(len(absmax))
    exponents[is_used] = alpha * np.log2(absmax[is_used]) - beta * np.log2(weight[is_used])
    exponents[is_used] -= exponents[is_used].mean() if is_used.any() else 0.0
    scales: np.ndarray = np.exp2(np.clip(np.rint(exponents), -LARGEST_EXPONENT, LARGEST_EXPONENT)).astype(np.float32)
    return scales


def sort_channels(key: np.ndarray, span: int) -> np.ndarray:
    """Order (D,) int32 of channels by `key` (D,), ascending, within each run of `span` channels."""
    order: np.ndarray = np.argsort(key.reshape(-1, span), axis=1, kind="stable") + np.arange(0, len(key), span)[:, None]
    flat: np.ndarray = order.reshape(-1).astype(np.int32)
    return flat


def build_hadamard(size: int) -> np.ndarray:
    """Symmetric orthogonal Hadamard matrix float32 (size, size). Raises ValueError unless size is a power of two."""
    if size & (size - 1):
        raise ValueError(f"a rotation needs heads of a power of two channels, not of {size}")
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    rotation: np.ndarray = (matrix / np.sqrt(size)).astype(np.float32)
    return rotation
