"""Sampling inputs of the ladder's pictures: the same prompts, noise and noise levels for all variants."""

import mlx.core as mx

from taqmlx.models.protocol import Model
from taqmlx.numerics.schedule import draw_noise
from taqmlx.planning.stages import SampleRung
from taqmlx.store.conditioning import Conditioning


def start_pictures(
    parameters: SampleRung, model: Model, conditioning: Conditioning
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Arguments for `sample`: cs (N, 2, T, D), cs_pooled (N, 2, W), noise (N, h, w, c) and sigmas (steps + 1,), fp32.

    Prompts are used in turn, and seeds continue after those of the trajectories. N is `ladder_pictures`. Raises
    UserError if the encodings are damaged.
    """
    count, prompts = parameters.ladder_pictures, len(parameters.prompts)
    cs, cs_pooled = map(mx.array, conditioning.read([index % prompts for index in range(count)]))
    first = parameters.seed + parameters.trajectories
    noise = draw_noise(range(first, first + count), *model.LATENT_SHAPE)
    return cs, cs_pooled, noise, model.compute_sigmas(parameters.ladder_steps)
