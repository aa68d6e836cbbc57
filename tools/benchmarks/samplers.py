"""Samplers to compare, each in its own process, which samples once per input line.

Run as `python -m tools.benchmarks.samplers NAME`; it answers each line with the seconds of sampling.
"""

import contextlib
import io
import itertools
import sys
import time
from collections.abc import Callable

import taqmlx  # noqa: F401  before MLX, for its BLAS

STEPS, CFG_WEIGHT = 25, 4.0
BATCH = 13  # trajectories that advance together, as in a shard of the default configuration
LATENT, TEXT, WIDTH = (8, 8, 16), 20, 128
SAMPLER_SHIFT = 3.0

Sample = Callable[[], None]


def build_diffusionkit() -> Sample:
    """DiffusionKit's `sample_euler`, one trajectory, which is what it can do at a time."""
    import mlx.core as mx

    from tools import reference

    pipeline = reference.Pipeline(reference.create_transformer())
    text = mx.random.normal((2, TEXT, WIDTH)), mx.random.normal((2, WIDTH))
    sigmas = reference.get_sigmas(STEPS)
    latents = reference.get_first_latents(0, *LATENT[:2], sigmas[0])
    reference.load_pipeline_module()

    def sample() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # it shows a progress bar
            mx.eval(reference.sample_euler(pipeline, latents, sigmas, *text, CFG_WEIGHT))

    return sample


def build_ours() -> Sample:
    """The steps of a worker, one batch of trajectories of one prompt, without its store."""
    import mlx.core as mx

    from taqmlx.mmdit.forward import bind_linears
    from taqmlx.mmdit.sampling import bind_step
    from taqmlx.numerics import schedule
    from tools.reference import create_transformer

    model = create_transformer()
    text = mx.random.normal((1, 2, TEXT, WIDTH)), mx.random.normal((1, 2, WIDTH))
    sigmas = schedule.compute_sigmas(STEPS, SAMPLER_SHIFT)
    first = schedule.start_latents(schedule.draw_noise(range(BATCH), *LATENT), sigmas[0])
    linear = bind_linears(model)
    advance = bind_step(model, lambda sigma: linear, *text, mx.zeros(BATCH, mx.int32), sigmas, CFG_WEIGHT)

    def sample() -> None:
        latents = first
        for step in range(STEPS):
            latents = advance(latents, step)
            mx.eval(latents)

    return sample


def build_torch() -> Sample:
    """The transformer that is trained, in torch on one thread, sampling the same batch."""
    import torch

    from taqmlx.training.transformer import Transformer

    torch.set_num_threads(1)
    model = Transformer().eval()
    height, width, channels = LATENT
    first = torch.randn(BATCH, channels, height, width)
    cs = torch.randn(2, TEXT, WIDTH).repeat_interleave(BATCH, 0)
    cs_pooled = torch.randn(2, WIDTH).repeat_interleave(BATCH, 0)
    sigmas = torch.linspace(1, 0, STEPS + 1)

    @torch.inference_mode()
    def sample() -> None:
        latents = first
        for sigma, after in itertools.pairwise(sigmas):
            velocity = model(torch.cat([latents, latents]), cs, cs_pooled, (1000 * sigma).expand(2 * BATCH))
            positive, negative = velocity.chunk(2)
            latents = latents + (after - sigma) * (negative + CFG_WEIGHT * (positive - negative))

    return sample


BUILDERS = {"diffusionkit": build_diffusionkit, "ours": build_ours, "torch": build_torch}
TRAJECTORY_STEPS = {"diffusionkit": STEPS, "ours": BATCH * STEPS, "torch": BATCH * STEPS}


def main(name: str) -> None:
    sample = BUILDERS[name]()
    sample()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        sample()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
