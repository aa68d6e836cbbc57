"""Score the embedded model: choose the guidance weight, rate generated images, and plot some with their prompts."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.models import embedded
from taqmlx.models.classifier import Classifier, judge_pictures, load_classifier
from taqmlx.numerics.quality import measure_psnr
from taqmlx.plots.picture_grid import draw_grid
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.checksum_files import checksummed
from taqmlx.store.files import write_atomically, write_json
from taqmlx.training import recipe
from taqmlx.training.pool import draw_example
from taqmlx.training.scoring import generate_pictures, rate_pictures, write_captions

KINDS = {1: "one_object", 2: "two_objects"}


def score_embedded_model(arguments: argparse.Namespace) -> None:
    folder, classifier = arguments.model, load_classifier(arguments.model)
    scores = {"real_pictures": score_real_pictures(folder, classifier)}
    log.info(f"real pictures: {scores['real_pictures']}")
    scores["guidance_trials"] = try_guidance(folder, classifier)
    log.info(f"guidance: {scores['guidance_trials']}")
    weight = max(recipe.CFG_WEIGHTS, key=lambda weight: sum(scores["guidance_trials"][str(weight)].values()))
    scores["cfg_weight"] = weight
    for objects, name in KINDS.items():
        scores[name] = rate_captions(folder, classifier, recipe.SCORE_SEED, recipe.SCORED_CAPTIONS, objects, weight)
        log.info(f"{name}: {scores[name]}")
    write_json(arguments.out, scores)
    draw_examples(folder, scores["cfg_weight"], arguments.pictures)


def try_guidance(folder: Path, classifier: Classifier) -> dict[str, dict[str, float]]:
    seed, count = recipe.CFG_SEED, recipe.CFG_CAPTIONS
    return {
        str(weight): {
            name: rate_captions(folder, classifier, seed, count, objects, weight)["all"]
            for objects, name in KINDS.items()
        }
        for weight in recipe.CFG_WEIGHTS
    }


def rate_captions(
    folder: Path, classifier: Classifier, seed: int, count: int, objects: int, cfg_weight: float
) -> dict[str, float]:
    captions = write_captions(seed, count, objects)
    prompts = [caption.text for caption in captions]
    pictures = generate_pictures(folder, prompts, recipe.SCORED_STEPS, cfg_weight, seed)
    values, _ = judge_pictures(classifier, pictures)
    return rate_pictures(values, np.array([caption.asked for caption in captions]))


def score_real_pictures(folder: Path, classifier: Classifier) -> dict[str, Any]:
    examples = [draw_example(recipe.SCORE_SEED, index, held_out=True) for index in range(recipe.REAL_PICTURES)]
    asked = np.array([tuple(scene.values()) for scene, _ in examples])
    pictures = np.stack([picture for _, picture in examples])
    encoder, decoder = embedded.load_encoder(folder), embedded.load_decoder(folder)
    latents = [
        embedded.encode_pictures(encoder, pictures[start : start + embedded.DECODE_BATCH])
        for start in range(0, len(pictures), embedded.DECODE_BATCH)
    ]
    restored = np.concatenate([embedded.decode_latents(decoder, part) for part in latents])
    values = np.concatenate([np.array(part) for part in latents])
    return {
        "classifier": rate_pictures(judge_pictures(classifier, pictures)[0], asked),
        "classifier_after_autoencoder": rate_pictures(judge_pictures(classifier, restored)[0], asked),
        "autoencoder_psnr_db": round(measure_psnr(restored, pictures), 2),
        "latent_mean": round(float(values.mean()), 4),
        "latent_deviation": round(float(values.std()), 4),
    }


def draw_examples(folder: Path, cfg_weight: float, path: Path) -> None:
    half = recipe.GRID_ROWS * recipe.GRID_COLUMNS // 2
    prompts = [caption.text for objects in (1, 2) for caption in write_captions(recipe.GRID_SEED, half, objects)]
    pictures = generate_pictures(folder, prompts, recipe.SCORED_STEPS, cfg_weight, recipe.GRID_SEED)
    grid = draw_grid(pictures, prompts, recipe.GRID_COLUMNS)
    with checksummed(path):
        write_atomically(path, lambda partial: grid.save(partial, optimize=True))


if __name__ == "__main__":
    run(score_embedded_model, build_parser(__doc__, "model", "out", "pictures"))
