"""Sampling: Euler steps of the transformer, with classifier-free guidance if the model uses it."""

from collections.abc import Callable
from typing import cast

import mlx.core as mx

from taqmlx.mmdit.blocks import Linear
from taqmlx.mmdit.footprint import check_forward, choose_batch
from taqmlx.mmdit.forward import predict_velocity
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.schedule import compute_timesteps, euler_step, start_latents
from taqmlx.store.errors import UserError

# sigma -> linear layers at that noise level; in full precision the same for all
LinearAt = Callable[[float], Linear]

BATCH = 32  # trajectories per batch of `sample`, at most


class NotFiniteError(UserError):
    """Latents that are not finite after a step; `row` is the image's index among those sampled together."""

    def __init__(self, row: int, step: int, words: str = ""):
        self.row, self.step = row, step
        super().__init__(
            f"{words or f'picture {row}'}: the latents after step {step} are not finite; check the model's weights"
            " and their quantization"
        )


def reject_nonfinite(latents: mx.array, first: int, step: int) -> None:
    """Raise NotFiniteError if latents (N, h, w, c), of images from index `first`, are not finite after `step`."""
    whole = cast(list[bool], mx.isfinite(latents).all(axis=(1, 2, 3)).tolist())
    if not all(whole):
        raise NotFiniteError(first + whole.index(False), step)


def bind_step(
    model: Transformer,
    linear_at: LinearAt,
    cs: mx.array,
    cs_pooled: mx.array,
    prompts: mx.array,
    sigmas: mx.array,
    cfg_weight: float,
) -> Callable[[mx.array, int], mx.array]:
    """`advance(latents, step)`: latents (N, h, w, c) after a step from those before it, fp32, not evaluated.

    cs (P, C, T, D) and cs_pooled (P, C, W): the C conditions of each prompt, positive and negative, or positive only;
    prompts (N,) int: the prompt of each row; sigmas (steps + 1,). The network computes in the precision of its weights,
    with C rows per latent.
    """
    dtype, count = model.x_embedder.proj.weight.dtype, cs.shape[1]
    context = cs.swapaxes(0, 1).reshape(-1, *cs.shape[2:]).astype(dtype)  # (P, C, T, D) -> (C P, T, D)
    pooled = cs_pooled.swapaxes(0, 1).reshape(-1, cs_pooled.shape[2]).astype(dtype)  # (P, C, W) -> (C P, W)
    rows = mx.concatenate([prompts + place * len(cs) for place in range(count)])  # (C N,)
    timesteps, levels = compute_timesteps(sigmas), cast(list[float], sigmas.tolist())

    def advance(latents: mx.array, step: int) -> mx.array:
        told = mx.broadcast_to(timesteps[step], (len(pooled),))
        seen, linear = mx.concatenate([latents] * count).astype(dtype), linear_at(levels[step])
        velocity = predict_velocity(model, linear, seen, context, pooled, told, rows)
        return euler_step(latents, velocity, sigmas[step], sigmas[step + 1], cfg_weight)

    return advance


def sample(
    model: Transformer,
    linear_at: LinearAt,
    cs: mx.array,
    cs_pooled: mx.array,
    noise: mx.array,
    sigmas: mx.array,
    cfg_weight: float,
    report: Callable[[int], None] = lambda count: None,
    batch_size: int = BATCH,
) -> mx.array:
    """Final latents (N, h, w, c) fp32 from `noise` of that shape, row i under prompt i of cs and cs_pooled.

    A batch has `batch_size` rows, reduced in proportion where memory does not allow BATCH; `report` receives the number
    of rows after each step. Raises NotFiniteError, and UserError if this machine lacks the memory.
    """
    finished = []
    size = max(1, choose_batch(model, noise.shape[1:], cs.shape, BATCH) * batch_size // BATCH)
    check_forward(model, noise.shape[1:], cs.shape[2], cs.shape[1] * min(size, len(noise)), "drawing")
    for start in range(0, len(noise), size):
        rows = slice(start, start + size)
        latents = start_latents(noise[rows], sigmas[0])
        prompts = mx.arange(len(latents))
        advance = bind_step(model, linear_at, cs[rows], cs_pooled[rows], prompts, sigmas, cfg_weight)
        for step in range(len(sigmas) - 1):
            latents = advance(latents, step)
            mx.eval(latents)
            reject_nonfinite(latents, start, step)
            report(len(latents))
        finished.append(latents)
    return mx.concatenate(finished)
