"""Compare a variant's images with real images and with those of full precision; write the metrics as JSON."""

import argparse
import os

import numpy as np

from taqmlx.evaluation import measures
from taqmlx.evaluation.lpips import Lpips
from taqmlx.models.classifier import compare_attributes
from taqmlx.numerics.distribution import draw_counts
from taqmlx.planning import plan
from taqmlx.planning.evaluation_documents import EvaluationPrompt, FeatureSource, Metrics
from taqmlx.planning.evaluation_stages import CompareVariant
from taqmlx.planning.local_paths import find_local_path
from taqmlx.planning.variants import ALL, FULL_PRECISION
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.evaluation_prompts import read_evaluation_prompts
from taqmlx.store.files import write_json
from taqmlx.store.parameters import read_parameters
from taqmlx.store.picture_sets import REAL, PictureSet, check_pairs, choose_features, read_features, read_set

KINDS = {0: "one_object", 1: "two_objects"}


def main(arguments: argparse.Namespace) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    parameters, evaluation = (
        read_parameters(CompareVariant, arguments.params),
        read_evaluation_prompts(arguments.prompts),
    )
    shards = plan.list_stage_shards(parameters.evaluation_shards)
    real = read_features([arguments.features / REAL / f"{shard}.safetensors" for shard in shards], REAL)
    exact, found = (
        read_set(
            [arguments.images / name / f"{shard}.json" for shard in shards],
            [arguments.features / name / f"{shard}.safetensors" for shard in shards],
            name,
        )
        for name in (FULL_PRECISION, arguments.variant)
    )
    moved = ALL[arguments.variant].seeds * len(evaluation["pictures"])
    check_pairs(arguments.variant, found, FULL_PRECISION, exact, moved)
    counts = draw_counts(exact.prompts, parameters.evaluation_seed)
    described = {"format": "compared", "variant": arguments.variant, "title": ALL[arguments.variant].title}
    described |= compare_sets(found, real.arrays, real.pictures, exact, counts, parameters.evaluation_seed)
    if arguments.variant != FULL_PRECISION:
        described |= {"paired": compare_pairs(found, exact, counts, find_local_path("lpips", parameters.lpips))}
    described |= {"prompt_accuracy": rate(found, evaluation["prompts"], counts)}
    write_json(arguments.out, described)
    log.info(f"{arguments.variant}: {say_distances(described)}")


def compare_sets(
    found: PictureSet, real: dict[str, np.ndarray], pictures: int, exact: PictureSet, counts: np.ndarray, seed: int
) -> Metrics:
    """Distances to the real images (`pictures` of them) and to those of full precision, named after their reference."""
    features, partners, kind = found.features.arrays, exact.features.arrays, choose_features(real)
    to_real = measures.compare_with_fixed(features[kind], real[kind], counts, seed)
    to_exact = measures.compare_with_partners(features[kind], partners[kind], counts)
    if "clip" in features:
        fixed = np.ones((len(counts), pictures))
        to_real["cmmd"] = measures.compare_by_clip(features["clip"], real["clip"], counts, fixed)
        to_exact["cmmd"] = measures.compare_by_clip(features["clip"], partners["clip"], counts, counts)
    return {
        f"{measure}_to_{reference}": value
        for reference, distances in (("real", to_real), ("full_precision", to_exact))
        for measure, value in distances.items()
    }


def compare_pairs(found: PictureSet, exact: PictureSet, counts: np.ndarray, lpips: FeatureSource | None) -> Metrics:
    """Metrics between paired images of the variant and of full precision; LPIPS if `lpips` names its weights."""
    chosen = measures.PICTURE_MEASURES | ({"lpips": (Lpips(lpips), np.max)} if lpips else {})
    pictures = measures.describe_pairs(chosen, found.read_pictures(), exact.read_pictures(), counts)
    drawn = found.read_latents(), exact.read_latents(), counts
    latents = measures.describe_pairs(measures.LATENT_MEASURES, *drawn)
    return pictures | latents | {"turns_out_otherwise": measures.describe_otherwise(*drawn)}


def rate(found: PictureSet, prompts: list[EvaluationPrompt], counts: np.ndarray) -> Metrics | None:
    """Share of images that show everything their prompt asked for; None if the prompts do not specify it."""
    known = [prompts[prompt]["asked"] for prompt in found.prompts]
    if None in known:
        return None
    asked = np.array(known)
    right: np.ndarray = np.asarray(compare_attributes(found.features.arrays["values"], asked).all(axis=1))
    shares = {"all": measures.describe_share(right, counts)}
    for kind, name in KINDS.items():
        own = asked[:, 0] == kind
        if own.any():
            shares[name] = measures.describe_share(right[own], counts[:, own])
    return shares


def say_distances(described: Metrics) -> str:
    """The distances in one line."""
    names = [name for name in described if "_to_" in name]
    return ", ".join(f"{name.replace('_', ' ')} {described[name]['value']:.4g}" for name in names)


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser; `--images` and `--features` are the folders of all variants."""
    parser = build_parser(__doc__, "params", "prompts", "images", "features", "out")
    parser.add_argument("--variant", required=True, choices=list(ALL))
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
