"""Manifest of a dataset: every image with its prompt and seed, and the values shared by all images.

It is derived from the trajectories' seals alone, so it can be rewritten at any time. The keys are those of the original
layout; `shards`, the identity of the work on each shard, is an addition that detects a stale manifest.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard, ShardParameters
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_plain_json, reject_changed
from taqmlx.store.locations import Location
from taqmlx.store.original_layout import name_image, name_latents
from taqmlx.store.seal import Seal, check_origin, identify_work, read_group_seal

Manifest = dict[str, Any]

SAVED = {"images": "images/*.png", "latents": "latents/*.npy"}  # files of each kind beside an exported manifest
PROMPT_FILE = "conditioning.json"  # beside the manifest of results; its parameters list the prompts in order
# Keys that an import needs in a manifest and in each of its images.
LONGEST_NAME = 80  # characters shown of a name
NEEDED = {"num_steps": int, "cfg_scale": (int, float), "images": list}
NEEDED_OF_IMAGE = {"image_id": int, "prompt": str, "seed": int}


def read_seals(store: Location, parameters: CollectShard) -> dict[str, Seal]:
    """Read the seals of the finished shards in `store`, by shard.

    Raises UserError for a seal that is damaged or of other parameters.
    """
    seals = {}
    for shard in plan.list_shards(parameters):
        if (store / shard / "zarr.json").is_file():
            seals[shard] = read_group_seal(store / shard)
            check_origin(seals[shard], store / shard, plan.select_shard(parameters, shard).encode(), {})
    return seals


def build_manifest(parameters: CollectShard, seals: dict[str, Seal], saved: dict[str, int] | None = None) -> Manifest:
    """Build the manifest of the images in `seals`.

    saved: number of `images` and `latents` files beside it; by default those in the store, which has no pictures.
    """
    images = sorted((image for seal in seals.values() for image in list_images(seal)), key=lambda i: i["image_id"])
    saved = saved or {"images": 0, "latents": len(images)}
    shapes = [seal["inputs"]["latent_shape"] for seal in seals.values()]
    return {
        "n_completed": len(images),
        "num_images": parameters.trajectories,
        "num_steps": parameters.steps,
        "cfg_scale": parameters.cfg_scale,
        "latent_size": shapes[0][:2] if shapes else None,
        "prompt_path": PROMPT_FILE,
        "model_version": parameters.model,
        "use_t5": bool(parameters.use_t5),
        "seed_base": parameters.seed,
        "images_saved": saved["images"],
        "latents_saved": saved["latents"],
        "images": images,
        "shards": {shard: identify_work(seal) for shard, seal in seals.items()},
    }


def count_saved(folder: Path) -> dict[str, int]:
    """Number of files of each kind in a folder of the original layout."""
    return {kind: len(list(folder.glob(pattern))) for kind, pattern in SAVED.items()}


def list_images(seal: Seal) -> Iterator[dict[str, Any]]:
    """Yield the manifest entry of each trajectory of a shard."""
    job = ShardParameters.decode(seal["parameters"])
    first = min(prompt for _, prompt in job.rows)
    for number, prompt in job.rows:
        yield {
            "image_id": number,
            "prompt": job.prompts[prompt - first],
            "seed": job.seed + number,
            "cfg_weight": job.cfg_scale,
            "num_steps": job.steps,
            "filename": name_image(Path(), number).name,
            "latent_filename": name_latents(Path(), number).name,
        }


def find_staleness(found: Manifest, wanted: Manifest) -> Iterator[str]:
    """Yield each difference between the manifest `found` and `wanted`, the one derived from the seals."""
    images = found.get("images", []) if isinstance(found, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        yield "it is not a manifest"
        return
    for key in wanted.keys() - {"images"}:
        if found.get(key) != wanted[key]:
            yield f"{key} is {plan.shorten(found.get(key))}, the seals say {plan.shorten(wanted[key])}"
    given = {str(image.get("image_id")): image for image in images}
    for image in wanted["images"]:
        number = image["image_id"]
        if difference := plan.describe_difference(given.pop(str(number), {}), image):
            yield f"image {number:04d}: {difference.replace('in the configuration', 'by its seal')}"
    for number in given:
        yield f"image {number[:LONGEST_NAME]} is in no sealed shard"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest of the original layout. Raises UserError, naming the key, if it lacks what an import needs."""
    manifest = read_plain_json(path)
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is not a manifest")
    manifest = reject_changed(path, manifest, "the program that wrote it")
    check_keys(path, manifest, NEEDED)
    for place, image in enumerate(manifest["images"]):
        check_keys(f"{path}: images[{place}]", image, NEEDED_OF_IMAGE)
    return manifest


def check_keys(place: Path | str, found: Any, needed: dict[str, Any]) -> None:
    """Raise UserError unless `found` has the `needed` keys with values of these types."""
    for key, kinds in needed.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kinds):
            raise UserError(f"{place}: {key} is missing or not readable; restore the manifest")
        if isinstance(found[key], bool):
            raise UserError(f"{place}: {key} is a boolean, not a number; restore the manifest")
