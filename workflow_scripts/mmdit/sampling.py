"""Sampling: the transformer under classifier-free guidance, one Euler step at a time."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from workflow_scripts.mmdit.forward import Linear, predict_velocity
from workflow_scripts.numerics.schedule import compute_timesteps, euler_step


def bind_step(
    model: Any,
    linear: Linear,
    cs: mx.array,
    cs_pooled: mx.array,
    prompts: mx.array,
    sigmas: mx.array,
    cfg_weight: float,
) -> Callable[[mx.array, int], mx.array]:
    """`advance(latents, step)`, from the latents (N, h, w, c) before a step to those after it, fp32, not evaluated.

    cs (P, 2, T, D) and cs_pooled (P, 2, W), positive and negative; prompts (N,) int, the prompt of each row; sigmas
    (steps + 1,).
    """
    context = mx.concatenate([cs[:, 0], cs[:, 1]])  # (2P, T, D)
    pooled = mx.concatenate([cs_pooled[:, 0], cs_pooled[:, 1]])  # (2P, W)
    rows = mx.concatenate([prompts, prompts + len(cs)])  # (2N,)
    timesteps = compute_timesteps(sigmas)

    def advance(latents: mx.array, step: int) -> mx.array:
        told = mx.broadcast_to(timesteps[step], (len(pooled),))
        velocity = predict_velocity(model, linear, mx.concatenate([latents, latents]), context, pooled, told, rows)
        return euler_step(latents, velocity, sigmas[step], sigmas[step + 1], cfg_weight)

    return advance
