"""Generate one shard of a variant's images, each a PNG file with its final latents beside it, then the shard's seal.

Existing images with matching metadata are kept, so an interrupted job resumes where it stopped.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.sampling import LinearAt, NotFiniteError, sample
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model, warn_of_dropped_text
from taqmlx.models.protocol import Model
from taqmlx.numerics.schedule import draw_noise
from taqmlx.planning import plan
from taqmlx.planning.evaluation_stages import GenerateImages
from taqmlx.planning.variants import ALL, FULL_PRECISION
from taqmlx.reconstruction.variant_linears import bind_source
from taqmlx.runtime.entry import Progress, add_folds, build_parser, find_shard_index, log, run
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.store.lock import hold_lock
from taqmlx.store.parameters import read_parameters
from taqmlx.store.pictures import is_drawn, name_picture, write_picture
from taqmlx.store.seal import make_seal


class Picture(NamedTuple):
    """Path of an image, content of its PNG text chunks, and index of its prompt in the evaluation."""

    path: Path
    about: dict[str, Any]
    prompt: int


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(GenerateImages, arguments.params)
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    inputs = {"model": model.file_digests(), "source": {path.name: hash_file(path) for path in arguments.source}}
    pictures = list_pictures(arguments, parameters, plan.fingerprint(inputs))
    if arguments.variant == FULL_PRECISION:  # logged once: all variants have the same prompts
        warn_of_dropped_text(model, list(dict.fromkeys(picture.about["prompt"] for picture in pictures)))
    with hold_lock(arguments.out.with_suffix(".lock"), log.info):
        drawn = draw_missing(arguments, parameters, model, pictures)
        digests = {
            picture.path.name: [hash_file(picture.path), hash_file(picture.path.with_suffix(".safetensors"))]
            for picture in pictures
        }
        drop_others(arguments.out, [picture.path for picture in pictures])
        own = parameters.encode() | {"variant": arguments.variant, "shard": arguments.shard}
        own |= {"pictures": [[picture.prompt, picture.about["seed"]] for picture in pictures]}
        write_json(arguments.out.with_suffix(".json"), make_seal(own, inputs, digests))
    log.info(f"{len(pictures)} pictures of {arguments.variant}, {drawn} drawn now: {arguments.out}")


def draw_missing(
    arguments: argparse.Namespace, parameters: GenerateImages, model: Model, pictures: list[Picture]
) -> int:
    """Generate the batches with missing images. Returns the number of images in them."""
    variant = ALL[arguments.variant]
    batches = [pictures[start : start + variant.batch] for start in range(0, len(pictures), variant.batch)]
    # A batch is generated whole, existing images included, so that results do not depend on which images exist.
    missing = [batch for batch in batches if not all(is_drawn(picture.path, picture.about) for picture in batch)]
    count = sum(map(len, missing))
    if missing:
        transformer = model.load_transformer()
        linear_at = bind_source(transformer, variant.source, arguments.source)
        total = count * parameters.evaluation_steps
        progress = Progress(f"{arguments.variant}/{arguments.shard}", total, "trajectory-steps")
        draw_batches(model, transformer, linear_at, parameters, missing, progress, variant.batch)
    return count


def list_pictures(arguments: argparse.Namespace, parameters: GenerateImages, inputs: str) -> list[Picture]:
    """The shard's images, for its share of the prompts, prompt by prompt."""
    evaluation = read_json(arguments.prompts, format="evaluation-prompts")
    prompts, pictures, shards = evaluation["prompts"], evaluation["pictures"], parameters.evaluation_shards
    moved = ALL[arguments.variant].seeds * len(pictures)
    index = find_shard_index(arguments.shard, shards)
    own = [row for row in pictures if row["prompt"] * shards // len(prompts) == index]
    return [
        Picture(
            name_picture(arguments.out, row["seed"] + moved),
            {
                "prompt": prompts[row["prompt"]]["text"],
                "negative_prompt": parameters.negative_prompt,
                "seed": row["seed"] + moved,
                "variant": arguments.variant,
                "steps": parameters.evaluation_steps,
                "cfg": parameters.evaluation_cfg,
                "inputs": inputs,
            },
            row["prompt"],
        )
        for row in sorted(own, key=lambda row: (row["prompt"], row["seed"]))
    ]


def drop_others(folder: Path, pictures: list[Path]) -> None:
    """Delete images of earlier runs that are not among `pictures`, with their latents."""
    for path in set(folder.glob("*.png")) - set(pictures):
        path.unlink()
        path.with_suffix(".safetensors").unlink(missing_ok=True)


def draw_batches(
    model: Model,
    transformer: Transformer,
    linear_at: LinearAt,
    parameters: GenerateImages,
    batches: list[list[Picture]],
    progress: Progress,
    batch_size: int,
) -> None:
    """Generate batches of images; write the missing ones of each batch when it is done.

    `batch_size`: as in `sample`.
    """
    decoder = model.load_decoder()
    sigmas = model.compute_sigmas(parameters.evaluation_steps)
    for batch, cs, cs_pooled in encode_batches(model, batches, parameters.negative_prompt):
        noise = draw_noise([picture.about["seed"] for picture in batch], *model.LATENT_SHAPE)
        cfg = parameters.evaluation_cfg
        try:
            latents = sample(transformer, linear_at, cs, cs_pooled, noise, sigmas, cfg, progress.advance, batch_size)
        except NotFiniteError as error:
            about = batch[error.row].about
            words = f"{about['variant']}, seed {about['seed']}, prompt {about['prompt']!r}"
            raise NotFiniteError(error.row, error.step, words) from None
        drawn = zip(batch, model.decode_latents(decoder, latents), np.array(latents), strict=True)
        for picture, pixels, final in drawn:
            if not is_drawn(picture.path, picture.about):
                write_picture(picture.path, pixels, final, picture.about)


def encode_batches(
    model: Model, batches: list[list[Picture]], negative_prompt: str
) -> Iterator[tuple[list[Picture], mx.array, mx.array]]:
    """Yield each batch with its prompts' encodings."""
    for batch in batches:
        yield batch, *model.encode_prompts([picture.about["prompt"] for picture in batch], negative_prompt)


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser; `--out` is the shard's folder, its seal the JSON file of the same name beside it."""
    parser = add_folds(build_parser(__doc__, "params", "prompts", "out"))
    parser.add_argument("--variant", required=True, choices=list(ALL))
    parser.add_argument("--shard", required=True, help="shard number, such as 00")
    parser.add_argument("--source", type=Path, nargs="*", default=[], help="files with the variant's layers")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
