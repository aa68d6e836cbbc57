"""Error of a quantized result against full precision."""

import numpy as np

LARGEST_PIXEL = 255
RESAMPLES = 2000  # of a bootstrap


def measure_snr(approximation: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-noise ratio in dB: 10 log10(sum |reference|^2 / sum |reference - approximation|^2), of any shape.

    Infinite for equal arrays. For latents it measures the error of a trajectory.
    """
    reference = np.asarray(reference, np.float64)
    return to_decibels(np.square(reference).sum(), np.square(reference - approximation).sum())


def measure_relative_error(approximation: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the error over that of the reference; NaN if any value is NaN."""
    wanted = reference.astype(np.float64)
    return float(np.sqrt(np.mean((approximation - wanted) ** 2) / np.mean(wanted**2)))


def measure_psnr(pictures: np.ndarray, references: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 images, from the squared error over all images; may be infinite."""
    error = pictures.astype(np.float64) - references
    return to_decibels(LARGEST_PIXEL**2, np.square(error).mean())


def to_decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite for zero noise, minus infinite for a zero signal."""
    with np.errstate(divide="ignore"):
        return float(10 * (np.log10(signal) - np.log10(noise))) if noise else float("inf")


def compare_weights(approximation: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Error of a weight: `mean` and `max` of |difference|, and `relative_db`, its energy over that of the weight."""
    difference = np.abs(np.asarray(reference, np.float64) - approximation)
    return {
        "mean": float(difference.mean()),
        "max": float(difference.max()),
        "relative_db": -measure_snr(approximation, reference),
    }


def bound_median(differences: np.ndarray) -> tuple[float, list[float]]:
    """Median of `differences` (n,), and the ends of its 95 % interval from a bootstrap with a fixed seed."""
    drawn = np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
    ends: list[float] = np.quantile(np.median(differences[drawn], axis=1), (0.025, 0.975)).tolist()
    return float(np.median(differences)), ends
