"""Collect the metrics of all variants, with a description of the evaluation, as JSON."""

import argparse
from pathlib import Path
from typing import cast

import numpy as np

from taqmlx.evaluation.measures import describe_growth
from taqmlx.numerics.distribution import RESAMPLES, draw_counts
from taqmlx.planning import plan
from taqmlx.planning.evaluation_documents import EvaluationPrompts, Growth, Metrics
from taqmlx.planning.evaluation_stages import Score
from taqmlx.planning.variants import ALL, BY_CONFIGURATION, FULL_PRECISION, NOISE_FLOOR
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.evaluation_prompts import read_evaluation_prompts
from taqmlx.store.files import read_json, write_json
from taqmlx.store.frontier_file import find_size, read_frontier
from taqmlx.store.parameters import read_parameters
from taqmlx.store.picture_sets import REAL, Features, choose_features, read_features

FORMAT = {"format": "evaluation", "version": 2}
HEADLINE = 10_000
NOTES = {
    "intervals": f"95 %, by {RESAMPLES} bootstrap samples of the prompts; those of distances are centred on the value",
    "to_real": "the reference is real pictures, and stays as it is when prompts are drawn again",
    "to_full_precision": "the reference is the pictures of full precision from the same prompts and seeds; KID leaves"
    " out each picture's pair with its own partner, so that equal sets are at 0",
    "simulated": "quantized activations are simulated: rounded to their grid and computed with in floating point",
    "size": "of all linear layers, as the quantized ones are stored, scales and zero points included; the others count"
    " 16 bits a weight",
    "null": "a ratio in dB that is infinite, since nothing differs",
}


def main(arguments: argparse.Namespace) -> None:
    parameters, evaluation = (
        read_parameters(Score, arguments.params),
        read_evaluation_prompts(arguments.prompts),
    )
    shards = plan.list_stage_shards(parameters.evaluation_shards)
    real = read_features([arguments.folder / "features" / REAL / f"{shard}.safetensors" for shard in shards], REAL)
    variants = {
        name: read_measurement(arguments.folder, "compared", name)
        | {"error_growth": None, "size": read_measurement(arguments.folder, "sizes", name)}
        for name in parameters.evaluation_variants
    }
    for name, described in variants.items():
        if ALL[name].source in BY_CONFIGURATION:
            described["title"] = f"{described['size']['precision']}, {described['title']}"
    for name in variants.keys() - {FULL_PRECISION}:
        growth = cast(Growth, read_measurement(arguments.folder, "growth", name))
        variants[name]["error_growth"] = summarise_growth(growth, parameters.evaluation_seed)
    floor = {name: read_measurement(arguments.folder, "compared", name) for name in NOISE_FLOOR}
    head = FORMAT | describe_run(parameters, evaluation, real)
    head["bits_saved"] = describe_saving(arguments.frontier, parameters) if arguments.frontier else None
    write_json(arguments.out, head | {"variants": variants, "noise_floor": floor, "notes": NOTES})
    log.info(f"{len(variants)} variants, {len(evaluation['pictures'])} pictures each: {arguments.out}")


def read_measurement(folder: Path, what: str, variant: str) -> Metrics:
    """The output of one job for a variant; `what` names the job's folder and format."""
    content = read_json(folder / what / f"{variant}.json", format=what, variant=variant)
    return {key: value for key, value in content.items() if key not in ("format", "variant")}


def summarise_growth(growth: Growth, seed: int) -> Metrics:
    """Latent SNR in dB after each step, free-running and teacher-forced."""
    counts = draw_counts(np.array(growth["prompts"]), seed)
    found = {name: describe_growth(values, counts) for name, values in growth["latent_snr"].items()}
    return {"sigmas": growth["sigmas"], "pictures": len(growth["prompts"]), "latent_snr_db": found}


def describe_saving(path: Path, parameters: Score) -> Metrics:
    """Bits per weight saved against `nn.quantize` at the configured size, for each of our results.

    Raises UserError if the frontier used other steps or guidance than the evaluation, or lacks that size.
    """
    frontier, asked = read_frontier(path), parameters.bits_per_weight
    wanted = {"steps": parameters.evaluation_steps, "cfg": parameters.evaluation_cfg}
    for key, drawn in (("steps", frontier["steps"]), ("cfg", frontier["cfg"])):
        if drawn != wanted[key]:
            raise UserError(f"{path} was drawn with {key} {drawn:g}; delete it and run measure_frontier again")
    ways = {
        way["name"]: {"title": way["title"], "bits_per_weight": way["bits_per_weight"], **way["bits_saved"]}
        for way in find_size(frontier, asked, path)
    }
    about = {"n": frontier["n"], "steps": frontier["steps"], "cfg": frontier["cfg"]}
    return {"asked": asked, **about, "ways": ways}


def describe_run(parameters: Score, evaluation: EvaluationPrompts, real: Features) -> Metrics:
    """What was compared, with which references and features, and whether the FID is a headline number."""
    kind, seeds = choose_features(real.arrays), [row["seed"] for row in evaluation["pictures"]]
    return {
        "n": len(seeds),
        "prompts": len(evaluation["prompts"]),
        "seeds": [min(seeds), max(seeds)],
        "steps": parameters.evaluation_steps,
        "cfg": parameters.evaluation_cfg,
        "reference": {
            "real": {"n": real.pictures, "resized": real.resized, "drawn": parameters.reference_pictures is None},
            "full_precision": {"n": len(seeds)},
        },
        "features": {"kind": kind, "dimensions": int(real.arrays[kind].shape[1])} | real.about[kind],
        "cmmd": real.about.get("clip"),
        "lpips": parameters.lpips and {"network": "AlexNet", "weights_sha256": parameters.lpips["sha256"]},
        "is_headline": len(seeds) >= HEADLINE and kind == "inception",
        "headline": f"FID of fewer than {HEADLINE:,} pictures, or of other features than Inception's, is no headline:"
        " it compares variants here, and with no other work",
    }


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser; `--folder` holds the variants' features and metrics."""
    parser = build_parser(__doc__, "params", "prompts", "folder", "out")
    parser.add_argument("--frontier", type=Path, help="frontier.json, to report the bits saved")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
