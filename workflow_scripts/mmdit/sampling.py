"""Sampling: the transformer under classifier-free guidance, one Euler step at a time."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from workflow_scripts.mmdit.forward import Linear, predict_velocity
from workflow_scripts.numerics.schedule import compute_timesteps, euler_step, start_latents

# sigma -> the linear layers at that noise level; in full precision the same for all
LinearAt = Callable[[float], Linear]

BATCH = 32  # trajectories that `sample` advances together


def bind_step(
    model: Any,
    linear_at: LinearAt,
    cs: mx.array,
    cs_pooled: mx.array,
    prompts: mx.array,
    sigmas: mx.array,
    cfg_weight: float,
) -> Callable[[mx.array, int], mx.array]:
    """`advance(latents, step)`, from the latents (N, h, w, c) before a step to those after it, fp32, not evaluated.

    cs (P, 2, T, D) and cs_pooled (P, 2, W), positive and negative; prompts (N,) int, the prompt of each row; sigmas
    (steps + 1,). The network computes in the precision of its weights.
    """
    dtype = model.x_embedder.proj.weight.dtype
    context = mx.concatenate([cs[:, 0], cs[:, 1]]).astype(dtype)  # (2P, T, D)
    pooled = mx.concatenate([cs_pooled[:, 0], cs_pooled[:, 1]]).astype(dtype)  # (2P, W)
    rows = mx.concatenate([prompts, prompts + len(cs)])  # (2N,)
    timesteps, levels = compute_timesteps(sigmas), sigmas.tolist()

    def advance(latents: mx.array, step: int) -> mx.array:
        told = mx.broadcast_to(timesteps[step], (len(pooled),))
        pair, linear = mx.concatenate([latents, latents]).astype(dtype), linear_at(levels[step])
        velocity = predict_velocity(model, linear, pair, context, pooled, told, rows)
        return euler_step(latents, velocity, sigmas[step], sigmas[step + 1], cfg_weight)

    return advance


def sample(
    model: Any,
    linear_at: LinearAt,
    cs: mx.array,
    cs_pooled: mx.array,
    noise: mx.array,
    sigmas: mx.array,
    cfg_weight: float,
    report: Callable[[int], None] = lambda count: None,
) -> mx.array:
    """The final latents (N, h, w, c) fp32 from `noise` of that shape, row i under prompt i of cs and cs_pooled.

    `BATCH` rows advance together; `report` is told after each step how many.
    """
    finished = []
    for start in range(0, len(noise), BATCH):
        rows = slice(start, start + BATCH)
        latents = start_latents(noise[rows], sigmas[0])
        prompts = mx.arange(len(latents))
        advance = bind_step(model, linear_at, cs[rows], cs_pooled[rows], prompts, sigmas, cfg_weight)
        for step in range(len(sigmas) - 1):
            latents = advance(latents, step)
            mx.eval(latents)
            report(len(latents))
        finished.append(latents)
    return mx.concatenate(finished)
