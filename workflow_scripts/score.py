"""Compare the variants' pictures with real ones and with those of full precision, and write it all as JSON."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from workflow_scripts import plan
from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.evaluation import measures
from workflow_scripts.evaluation.lpips import Lpips
from workflow_scripts.models.classifier import compare_attributes
from workflow_scripts.numerics.distribution import RESAMPLES, draw_counts
from workflow_scripts.store.files import read_json, write_json
from workflow_scripts.store.picture_sets import Features, PictureSet, check_pairs, read_features, read_set
from workflow_scripts.variants import ALL, FULL_PRECISION, NOISE_FLOOR, list_drawn

FORMAT = {"format": "evaluation", "version": 1}
HEADLINE = 10_000
REAL = "real"
KINDS = {0: "one_object", 1: "two_objects"}
NOTES = {
    "intervals": f"95 %, by {RESAMPLES} bootstrap samples of the prompts; those of distances are centred on the value",
    "to_real": "the reference is real pictures, and stays as it is when prompts are drawn again",
    "to_full_precision": "the reference is the pictures of full precision from the same prompts and seeds; KID leaves"
    " out each picture's pair with its own partner, so that equal sets are at 0",
    "simulated": "8-bit activations are simulated: rounded to their grid and computed with in floating point",
    "null": "a ratio in dB that is infinite, since nothing differs",
}


def main(arguments: argparse.Namespace) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    parameters, evaluation = read_json(arguments.params), read_json(arguments.prompts)
    parts = plan.list_parts(parameters["evaluation_shards"])
    real = read_features(list_files(arguments.features / REAL, parts, ".safetensors"))
    sets = read_sets(arguments, list_drawn(parameters), parts, len(evaluation["pictures"]))
    exact = sets[FULL_PRECISION]
    counts = draw_counts(exact.prompts, parameters["evaluation_seed"])
    judge = Judge(parameters, evaluation["prompts"], real, exact, counts)
    described = {}
    for name, found in sets.items():
        described[name] = judge.describe(name, found)
        log.info(f"{name}: {say_distances(described[name])}")
    growth = {
        name: summarise_growth(read_json(arguments.growth / f"{name}.json"), parameters)
        for name in parameters["evaluation_variants"]
        if name != FULL_PRECISION
    }
    variants = {
        name: described[name] | {"error_growth": growth.get(name)} for name in parameters["evaluation_variants"]
    }
    floor = {name: described[name] for name in NOISE_FLOOR}
    head = describe_run(parameters, evaluation, real, exact)
    write_json(arguments.out, FORMAT | head | {"variants": variants, "noise_floor": floor, "notes": NOTES})
    log.info(f"{len(variants)} variants, {len(exact.rows)} pictures each: {arguments.out}")


def read_sets(arguments: argparse.Namespace, names: list[str], parts: list[str], count: int) -> dict[str, PictureSet]:
    """The pictures of all variants. Raises UserError unless they are of the same prompts and seeds."""
    sets = {
        name: read_set(
            list_files(arguments.images / name, parts, ".json"),
            list_files(arguments.features / name, parts, ".safetensors"),
        )
        for name in names
    }
    for name, found in sets.items():
        check_pairs(name, found, FULL_PRECISION, sets[FULL_PRECISION], ALL[name].seeds * count)
    return sets


def list_files(folder: Path, parts: list[str], suffix: str) -> list[Path]:
    """The files of a variant's shards, in order."""
    return [folder / f"{part}{suffix}" for part in parts]


class Judge:
    """Everything a variant is compared with."""

    def __init__(
        self, parameters: plan.Parameters, prompts: list[dict], real: Features, exact: PictureSet, counts: np.ndarray
    ):
        self.seed, self.prompts, self.real, self.exact, self.counts = (
            parameters["evaluation_seed"],
            prompts,
            real,
            exact,
            counts,
        )
        self.kind = choose_features(real)
        self.pictures, self.latents = exact.read_pictures(), exact.read_latents()
        self.measures = measures.PICTURE_MEASURES
        if parameters["lpips"]:
            self.measures = self.measures | {"lpips": (Lpips(parameters["lpips"]), np.max)}

    def describe(self, name: str, found: PictureSet) -> dict[str, Any]:
        """All measures of a variant, named by what it is compared with."""
        described = {"title": ALL[name].title} | self.compare_sets(found)
        if name != FULL_PRECISION:
            described |= {"paired": self.compare_pairs(found)}
        return described | {"prompt_accuracy": self.rate(found)}

    def compare_sets(self, found: PictureSet) -> dict[str, Any]:
        """Distances to real pictures and to those of full precision."""
        features, counts = found.features.arrays, self.counts
        real = measures.compare_with_fixed(features[self.kind], self.real.arrays[self.kind], counts, self.seed)
        exact = measures.compare_with_partners(features[self.kind], self.exact.features.arrays[self.kind], counts)
        if "clip" in features:
            fixed = np.ones((len(counts), self.real.pictures))
            real["cmmd"] = measures.compare_by_clip(features["clip"], self.real.arrays["clip"], counts, fixed)
            partners = self.exact.features.arrays["clip"]
            exact["cmmd"] = measures.compare_by_clip(features["clip"], partners, counts, counts)
        return {
            f"{measure}_to_{reference}": value
            for reference, distances in (("real", real), ("full_precision", exact))
            for measure, value in distances.items()
        }

    def compare_pairs(self, found: PictureSet) -> dict[str, Any]:
        """Measures of pairs with full precision."""
        pictures = measures.describe_pairs(self.measures, found.read_pictures(), self.pictures, self.counts)
        latents = measures.describe_pairs(measures.LATENT_MEASURES, found.read_latents(), self.latents, self.counts)
        return pictures | latents

    def rate(self, found: PictureSet) -> dict[str, Any] | None:
        """Shares of pictures that show all that was asked; None where prompts do not say what they ask."""
        asked = [self.prompts[prompt]["asked"] for prompt in found.prompts]
        if None in asked:
            return None
        asked = np.array(asked)
        right = compare_attributes(found.features.arrays["values"], asked).all(axis=1)
        shares = {"all": measures.describe_share(right, self.counts)}
        for kind, name in KINDS.items():
            own = asked[:, 0] == kind
            if own.any():
                shares[name] = measures.describe_share(right[own], self.counts[:, own])
        return shares


def choose_features(features: Features) -> str:
    """What FID and KID are computed of: Inception's features where there are any, else the classifier's."""
    return "inception" if "inception" in features.arrays else "classifier"


def summarise_growth(growth: dict[str, Any], parameters: plan.Parameters) -> dict[str, Any]:
    """Latent SNR in dB after each step, by how the variant ran."""
    counts = draw_counts(np.array(growth["prompts"]), parameters["evaluation_seed"])
    found = {name: measures.describe_growth(values, counts) for name, values in growth["latent_snr"].items()}
    return {"sigmas": growth["sigmas"], "pictures": len(growth["prompts"]), "latent_snr_db": found}


def describe_run(
    parameters: plan.Parameters, evaluation: dict[str, Any], real: Features, exact: PictureSet
) -> dict[str, Any]:
    """What was compared, by what, and how far it can be trusted."""
    kind, count = choose_features(real), len(exact.rows)
    about = real.about[kind]
    seeds = [seed for _, seed in exact.rows]
    return {
        "n": count,
        "prompts": len(evaluation["prompts"]),
        "seeds": [min(seeds), max(seeds)],
        "steps": parameters["evaluation_steps"],
        "cfg": parameters["evaluation_cfg"],
        "reference": {
            "real": {"n": real.pictures, "resized": real.resized, "drawn": parameters["reference_pictures"] is None},
            "full_precision": {"n": count},
        },
        "features": {"kind": kind, "dimensions": int(real.arrays[kind].shape[1])} | about,
        "cmmd": real.about.get("clip"),
        "lpips": parameters["lpips"] and {"network": "AlexNet", "weights_sha256": parameters["lpips"]["sha256"]},
        "is_headline": count >= HEADLINE and kind == "inception",
        "headline": f"FID of fewer than {HEADLINE:,} pictures, or of other features than Inception's, is no headline:"
        " it compares variants here, and with no other work",
    }


def say_distances(described: dict[str, Any]) -> str:
    """The distances in one line."""
    names = [name for name in described if "_to_" in name]
    return ", ".join(f"{name.replace('_', ' ')} {described[name]['value']:.4g}" for name in names)


def build_arguments() -> argparse.ArgumentParser:
    """The command line."""
    return build_parser(__doc__, "params", "prompts", "images", "features", "growth", "out")


if __name__ == "__main__":
    run(main, build_arguments())
