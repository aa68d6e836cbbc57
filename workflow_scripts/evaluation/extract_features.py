"""Extract all features of one shard of images.

`classifier` (n, 128) and `values` (n, attributes), and, if weights are configured, `inception` (n, 2048) and `clip`.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from taqmlx.models.classifier import judge_pictures, load_classifier
from taqmlx.models.embedded import FOLDER, PICTURE_SIZE
from taqmlx.planning import plan
from taqmlx.planning.evaluation_documents import Metrics
from taqmlx.planning.evaluation_stages import ExtractFeatures
from taqmlx.planning.local_paths import find_local_path
from taqmlx.planning.stage_demands import describe_missing_judge
from taqmlx.runtime.entry import Progress, build_parser, find_shard_index, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file
from taqmlx.store.parameters import read_parameters
from taqmlx.store.picture_sets import REAL, list_sealed
from taqmlx.store.pictures import list_pictures, read_picture, stack_pictures
from taqmlx.store.seal import identify_work
from taqmlx.store.tensors import reject_nonfinite, write_sealed_tensors

BATCH = 128
SCALE = 9.0  # divisor of the classifier features, so that those of real images have a mean square of 1
Extractor = Callable[[Sequence[Image.Image]], dict[str, np.ndarray]]


def main(arguments: argparse.Namespace) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    parameters = read_parameters(ExtractFeatures, arguments.params)
    extractors, about = open_extractors(parameters)
    paths, source = find_pictures(arguments, parameters)
    parts, resized = [], 0
    progress = Progress(f"features of {arguments.pictures.name}", len(paths), "pictures")
    for start in range(0, len(paths), BATCH):
        images = [read_picture(path) for path in paths[start : start + BATCH]]
        resized += sum(image.size != (PICTURE_SIZE, PICTURE_SIZE) for image in images)
        parts.append({name: rows for extract in extractors for name, rows in extract(images).items()})
        reject_nonfinite(arguments.pictures, parts[-1], "check the weights of the network that reads them")
        progress.advance(len(images))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    about |= {"pictures": len(paths), "resized": resized, "shard": arguments.shard} | source
    write_sealed_tensors(arguments.out, arrays, about)
    log.info(f"{len(paths)} pictures, {', '.join(about['features'])}: {arguments.out}")


def open_extractors(parameters: ExtractFeatures) -> tuple[list[Extractor], Metrics]:
    """The feature extractors, and their descriptions. Raises UserError for missing weights."""
    if parameters.model not in plan.EMBEDDED and not parameters.inception:
        raise UserError(describe_missing_judge(parameters.model))
    classifier = load_classifier()

    def judge(images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        values, features = judge_pictures(classifier, stack_pictures(images, PICTURE_SIZE))
        return {"classifier": features / np.float32(SCALE), "values": values.astype(np.int32)}

    extractors: list[Extractor] = [judge]
    about: Metrics = {
        "classifier": {
            "network": "the embedded model's attribute classifier",
            "weights_sha256": hash_file(FOLDER / "classifier.safetensors"),
            "divided_by": SCALE,
            "resize": f"none at {PICTURE_SIZE} x {PICTURE_SIZE}, else Pillow, bicubic, to that",
        }
    }
    # PyTorch takes seconds to import, so it is imported only if its weights are configured.
    if parameters.inception:
        from taqmlx.evaluation.inception import InceptionFeatures

        inception = InceptionFeatures(find_local_path("inception", parameters.inception))
        extractors.append(lambda images: {"inception": inception(images)})
        about["inception"] = inception.about
    if parameters.clip:
        from taqmlx.evaluation.clip_features import ClipFeatures

        clip = ClipFeatures(find_local_path("clip", parameters.clip))
        extractors.append(lambda images: {"clip": clip(images)})
        about["clip"] = clip.about
    return extractors, {"features": about}


def find_pictures(
    arguments: argparse.Namespace, parameters: ExtractFeatures
) -> tuple[list[Path], dict[str, str | None]]:
    """The images to read, all of a variant's shard or a share of real ones, and their source.

    The source has `set`, a variant's name or REAL, and `origin`, the identity of the work on the images, None for a
    folder without a seal. Raises UserError for images that are missing or do not match their seal.
    """
    if arguments.pictures.suffix != ".json":
        return take_share(list_pictures(arguments.pictures), arguments, parameters), {"set": REAL, "origin": None}
    seal, paths = list_sealed(arguments.pictures)
    name = seal["parameters"].get("variant", REAL)
    shown = take_share(paths, arguments, parameters) if name == REAL else paths
    return shown, {"set": name, "origin": identify_work(seal)}


def take_share(paths: list[Path], arguments: argparse.Namespace, parameters: ExtractFeatures) -> list[Path]:
    """The paths of this shard: every `evaluation_shards`-th one."""
    shards = parameters.evaluation_shards
    return paths[find_shard_index(arguments.shard, shards) :: shards]


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__, "params", "out")
    parser.add_argument("--pictures", type=Path, required=True, help="a shard's seal, or a folder of pictures")
    parser.add_argument("--shard", required=True, help="share of the folder to read, such as 00")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
