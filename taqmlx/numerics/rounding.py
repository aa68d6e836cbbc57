"""Learned rounding: AdaRound (Nagel et al. 2020, arXiv:2004.10568, eq. 21-25).

A weight is scale * (floor + h(alpha)) + bias. h is the rectified sigmoid; while alpha is learned, h moves from any
value in [0, 1] to 0 or 1. Functions take any shape, fp32.
"""

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

ZETA, GAMMA = 1.1, -0.1  # upper and lower end of the stretched sigmoid
WIDTH = (ZETA - GAMMA) / 2  # h = 0.5 + WIDTH tanh(alpha / 2) before clipping, because ZETA + GAMMA = 1
SATURATION = math.log((1 - GAMMA) / (ZETA - 1))  # |alpha| from which h is exactly 0 or 1

# tanh(a / 2) / a in powers of a^2, highest first: h within 3e-7. On a CPU a sigmoid takes 50 times as long as a sum.
TANH = (7.2936388e-08, -2.2685576e-06, 3.5508536e-05, -0.00040690281, 0.0041505587, -0.041658733, 0.49999887)


def compute_rounding(alpha: mx.array) -> mx.array:
    """h(alpha) = clip(sigmoid(alpha) (ZETA - GAMMA) + GAMMA, 0, 1), eq. 23."""
    a = mx.clip(alpha, -SATURATION, SATURATION)
    squared = mx.square(a)
    first, second, *others = (WIDTH * coefficient for coefficient in TANH)
    ratio = squared * first + second
    for coefficient in others:
        ratio = ratio * squared + coefficient
    return mx.clip(a * ratio + 0.5, 0.0, 1.0)


def compute_slope(rounding: mx.array) -> mx.array:
    """dh/dalpha as a function of h; 0 where h is clipped."""
    squared = mx.square(rounding - 0.5)
    return (WIDTH / 2 - squared * (0.5 / WIDTH)) * (squared < 0.25)


def invert_rounding(rounding: np.ndarray) -> np.ndarray:
    """alpha for h in [0, 1], float32."""
    return (2 * np.arctanh((np.asarray(rounding, np.float64) - 0.5) / WIDTH)).astype(np.float32)


def differentiate_regularizer(rounding: mx.array, weight: float, beta: float) -> mx.array:
    """d/dh of weight (1 - |2h - 1|^beta), eq. 24; positive for h < 1/2, where it decreases h."""
    centred = 2.0 * rounding - 1.0
    return mx.sign(centred) * (-2.0 * weight * beta) * mx.power(mx.abs(centred), beta - 1.0)


def compute_beta(iteration: int, iterations: int, warm_up: float, ends: Sequence[float]) -> float | None:
    """Exponent of the regularizer: linear from ends[0] after the warm-up to ends[1]; None during the warm-up."""
    first = warm_up * iterations
    if iteration < first:
        return None
    done = (iteration - first) / max(iterations - first, 1)
    return ends[0] + (ends[1] - ends[0]) * done


def compute_rate(iteration: int, iterations: int, rate: float) -> float:
    """Learning rate with cosine decay from `rate` to 0."""
    return rate * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
