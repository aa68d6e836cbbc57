"""Flow-matching schedule, initial noise and Euler step, in DiffusionKit's order of operations."""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx
import numpy as np

TRAIN_TIMESTEPS = 1000
EMPTY_LATENT = 0.0609


def shift_sigma(timesteps: mx.array, shift: float) -> mx.array:
    """Sigma of timesteps in 0..1000: shift t / (1 + (shift - 1) t) with t = timestep / 1000.

    Resolution-dependent shift of Esser et al. 2024 (arXiv 2403.03206), equation 23.
    """
    fraction = timesteps / float(TRAIN_TIMESTEPS)
    return shift * fraction / (1 + (shift - 1) * fraction)


def compute_sigmas(num_steps: int, shift: float) -> mx.array:
    """Noise levels of a trajectory from 1 down to 0, (num_steps + 1,) fp32.

    As in DiffusionKit, the shift is applied twice: timesteps are evenly spaced between shifted ends, then shifted.
    """
    ends = shift_sigma(mx.array([float(TRAIN_TIMESTEPS), 1.0]), shift) * TRAIN_TIMESTEPS
    start, end = cast(list[float], ends.tolist())
    sigmas = shift_sigma(mx.linspace(start, end, num_steps), shift)
    return mx.concatenate([sigmas, mx.zeros(1)])


def compute_even_sigmas(num_steps: int) -> mx.array:
    """Noise levels of a FLUX.1-schnell trajectory, (num_steps + 1,) fp32, evenly spaced from 1 down to 0, unshifted."""
    return shift_sigma(mx.linspace(float(TRAIN_TIMESTEPS), 0.0, num_steps + 1), 1.0)


def compute_timesteps(sigmas: mx.array) -> mx.array:
    """Timesteps of `sigmas` as the network's input: 1000 sigma."""
    return sigmas * TRAIN_TIMESTEPS


def list_levels(sigmas: mx.array) -> dict[str, np.ndarray]:
    """Schedule of a trajectory with noise levels `sigmas` (steps + 1,): `ts` (steps,) and `sigmas`, float32."""
    return {"ts": np.array(compute_timesteps(sigmas[:-1])), "sigmas": np.array(sigmas)}


def draw_noise(seeds: Sequence[int], height: int, width: int, channels: int) -> mx.array:
    """Standard normal noise (N, height, width, channels) fp32, one seed per row.

    The values are those of DiffusionKit, which seeds NumPy's global generator and draws in NCHW order.
    """
    rows = [np.random.RandomState(seed).randn(channels, height, width).transpose(1, 2, 0) for seed in seeds]
    return mx.array(np.stack(rows).astype(np.float32))


def start_latents(noise: mx.array, sigma: mx.array) -> mx.array:
    """Initial latents: `noise` (N, h, w, c) mixed with the empty latent at the first sigma."""
    return sigma * noise + (1.0 - sigma) * (mx.ones_like(noise) * EMPTY_LATENT)


def guide(predictions: Sequence[mx.array], cfg_weight: float) -> mx.array:
    """Classifier-free guidance of [positive, negative], arrays of one shape: neg + w (pos - neg).

    [positive] alone, of a model without guidance, is returned unchanged.
    """
    positive, *negatives = predictions
    return negatives[0] + cfg_weight * (positive - negatives[0]) if negatives else positive


def euler_step(
    latents: mx.array, velocity: mx.array, sigma: mx.array, next_sigma: mx.array, cfg_weight: float
) -> mx.array:
    """One Euler step (Karras et al. 2022, arXiv 2206.00364, algorithm 2) with guidance.

    latents (N, h, w, c); velocity (2N, h, w, c), all positives then all negatives, or (N, h, w, c) without guidance;
    the sigmas are scalars or broadcast against the latents, as (N, 1, 1, 1). Returns the next latents (N, h, w, c).
    """
    seen = latents.astype(velocity.dtype)
    parts = mx.split(velocity, len(velocity) // len(latents))
    denoised = guide([seen - part * sigma for part in parts], cfg_weight)
    derivative = (latents - denoised) / sigma
    return latents + derivative * (next_sigma - sigma)
