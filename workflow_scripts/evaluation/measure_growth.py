"""Measure the error growth of a variant along the trajectory, free-running and teacher-forced, as JSON.

Free-running, the variant follows its own trajectory from the initial noise. Teacher-forced, it starts each step from
the full-precision latents. Both are compared with full precision after each step.
"""

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.footprint import check_forward, choose_batch
from taqmlx.mmdit.sampling import bind_step, reject_nonfinite
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.quality import measure_snr
from taqmlx.numerics.schedule import draw_noise, start_latents
from taqmlx.planning.evaluation_documents import Growth, PictureRow
from taqmlx.planning.evaluation_stages import MeasureGrowth
from taqmlx.planning.variants import ALL
from taqmlx.reconstruction.variant_linears import bind_source
from taqmlx.runtime.entry import Progress, add_folds, build_parser, log, run
from taqmlx.store.evaluation_prompts import read_evaluation_prompts
from taqmlx.store.files import write_json
from taqmlx.store.parameters import read_parameters

PICTURES = 32
FREE, FORCED = "free_running", "teacher_forced"

GrowthArrays = dict[str, np.ndarray]


def main(arguments: argparse.Namespace) -> None:
    parameters, evaluation = (
        read_parameters(MeasureGrowth, arguments.params),
        read_evaluation_prompts(arguments.prompts),
    )
    pictures = evaluation["pictures"][:PICTURES]
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    prompts = [evaluation["prompts"][row["prompt"]]["text"] for row in pictures]
    cs, cs_pooled = model.encode_prompts(prompts, parameters.negative_prompt)
    transformer = model.load_transformer()
    sigmas = model.compute_sigmas(parameters.evaluation_steps)
    exact = bind_source(transformer, "none", [])
    quantized = bind_source(transformer, ALL[arguments.variant].source, arguments.source)
    noise = draw_noise([row["seed"] for row in pictures], *model.LATENT_SHAPE)
    size = choose_batch(transformer, model.LATENT_SHAPE, cs.shape, PICTURES)
    check_forward(transformer, model.LATENT_SHAPE, cs.shape[2], cs.shape[1] * size, "measuring growth")
    steps = len(sigmas) - 1
    progress, parts = Progress(arguments.variant, len(pictures) * steps, "trajectory-steps"), []
    for first in range(0, len(pictures), size):
        rows = slice(first, first + size)
        start = start_latents(noise[rows], sigmas[0])
        own = cs[rows], cs_pooled[rows], mx.arange(len(start)), sigmas, parameters.evaluation_cfg
        steppers = [bind_step(transformer, linear_at, *own) for linear_at in (exact, quantized)]
        parts.append(follow(steppers[0], steppers[1], start, steps, first, progress))
    found = {name: np.concatenate([part[name] for part in parts], axis=1) for name in (FREE, FORCED)}
    write_json(arguments.out, describe(arguments.variant, pictures, np.array(sigmas).tolist(), found))
    log.info(f"{len(pictures)} pictures over {steps} steps: {arguments.out}")


def follow(exact: Any, quantized: Any, start: mx.array, count: int, first: int, progress: Progress) -> GrowthArrays:
    """Latent SNR in dB after each of `count` steps, (steps, pictures) float64, by FREE and FORCED.

    start: latents (pictures, h, w, c); first: index of the first picture among all of them.
    """
    rows: dict[str, list[list[float]]] = {FREE: [], FORCED: []}
    reference, free = start, start
    for step in range(count):
        forced, free, reference = quantized(reference, step), quantized(free, step), exact(reference, step)
        mx.eval(forced, free, reference)
        for latents in (reference, forced, free):
            reject_nonfinite(latents, first, step)
        for name, latents in ((FREE, free), (FORCED, forced)):
            rows[name].append([measure_snr(*pair) for pair in zip(np.array(latents), np.array(reference), strict=True)])
        progress.advance(len(start))
    return {name: np.array(values) for name, values in rows.items()}


def describe(variant: str, pictures: list[PictureRow], sigmas: list[float], found: GrowthArrays) -> Growth:
    """The output: SNR of each picture at each step; an infinite SNR (equal latents) is null."""
    values = {
        name: [[value if np.isfinite(value) else None for value in step] for step in table.tolist()]
        for name, table in found.items()
    }
    return {
        "format": "growth",
        "variant": variant,
        "prompts": [row["prompt"] for row in pictures],
        "sigmas": sigmas,
        "latent_snr": values,
    }


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = add_folds(build_parser(__doc__, "params", "prompts", "out"))
    parser.add_argument("--variant", required=True, choices=list(ALL))
    parser.add_argument("--source", type=Path, nargs="*", default=[], help="files with the variant's layers")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
