"""What the ladder's pictures are drawn from: the same prompts, noise and noise levels for whatever is compared."""

import mlx.core as mx

from taqmlx.models.protocol import Model
from taqmlx.numerics.schedule import draw_noise
from taqmlx.planning import plan
from taqmlx.store.conditioning import Conditioning


def start_pictures(
    parameters: plan.Parameters, model: Model, conditioning: Conditioning
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """As `sample` takes them: cs (N, 2, T, D), cs_pooled (N, 2, W), noise (N, h, w, c) and sigmas (steps + 1,), fp32.

    The prompts take turns, and the seeds follow those of the trajectories. N is `ladder_pictures`. Raises UserError if
    the encodings are damaged.
    """
    count, prompts = parameters["ladder_pictures"], len(parameters["prompts"])
    cs, cs_pooled = map(mx.array, conditioning.read([index % prompts for index in range(count)]))
    first = parameters["seed"] + parameters["trajectories"]
    noise = draw_noise(range(first, first + count), *model.LATENT_SHAPE)
    return cs, cs_pooled, noise, model.compute_sigmas(parameters["ladder_steps"])
