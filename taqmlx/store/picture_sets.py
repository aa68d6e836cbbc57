"""All pictures of one variant: their features and, on demand, the pictures, shard by shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import hash_file
from taqmlx.store.pictures import name_picture, read_latents, read_picture
from taqmlx.store.seal import Seal, identify_work, read_file_seal
from taqmlx.store.tensors import read_sealed_tensors

REAL = "real"  # name of the set of real pictures


@dataclass(frozen=True)
class Features:
    """Features of a picture set.

    arrays: (n, d) by name; about: weights and settings of the feature networks; pictures, resized: number of pictures
    and of resized ones; origins: per shard, the identity of the work on its pictures, or None if there is none.
    """

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    pictures: int
    resized: int
    origins: list[str | None]


@dataclass(frozen=True)
class PictureSet:
    """features; rows: prompt index and seed of each picture; paths: path of each picture."""

    features: Features
    rows: list[tuple[int, int]]
    paths: list[Path]

    @property
    def prompts(self) -> np.ndarray:
        """Prompt index of each picture, (n,)."""
        return np.array([prompt for prompt, _ in self.rows])

    def read_pictures(self) -> np.ndarray:
        """Read (n, h, w, 3) uint8. Raises UserError for an unreadable picture or one of another size."""
        pictures = [np.asarray(read_picture(path)) for path in self.paths]
        for path, picture in zip(self.paths, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise UserError(f"{path} has another size than {self.paths[0]}; delete it and run again")
        return np.stack(pictures)

    def read_latents(self) -> np.ndarray:
        """Read final latents (n, h, w, c). Raises UserError for unreadable latents or ones of another shape."""
        found = [read_latents(path) for path in self.paths]
        for path, latents in zip(self.paths, found, strict=True):
            if latents.shape != found[0].shape:
                raise UserError(f"{path} has latents of another shape than {self.paths[0]}; delete it and run again")
        return np.stack(found)


def read_features(paths: Sequence[Path], name: str) -> Features:
    """Read the features of all shards of variant `name`, or of the REAL pictures.

    Raises UserError if they are of another set, or if shards were computed with different weights.
    """
    parts, abouts = [], []
    for path in paths:
        arrays, about = read_sealed_tensors(path)
        parts.append(arrays)
        abouts.append(about)
        with report_damage(path):
            if about["shard"] != path.stem:
                raise UserError(f"{path} has the features of shard {about['shard']}; delete it and run again")
            if about["set"] != name:
                raise UserError(f"{path} has features of {about['set']}, not {name}; delete it and run again")
            if about["features"] != abouts[0]["features"]:
                raise UserError(f"{path} and {paths[0]} are features of different networks; delete both and run again")
    filled = [part for part in parts if part]
    if not filled:
        raise UserError(f"{paths[0].parent} has features of no picture")
    with report_damage(paths[0].parent):
        arrays = {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}
        pictures, resized = (sum(about[key] for about in abouts) for key in ("pictures", "resized"))
        return Features(arrays, abouts[0]["features"], pictures, resized, [about["origin"] for about in abouts])


def choose_features(arrays: Mapping[str, np.ndarray]) -> str:
    """Features for FID and KID: Inception's if available, else the classifier's."""
    return "inception" if "inception" in arrays else "classifier"


def list_sealed(path: Path) -> tuple[Seal, list[Path]]:
    """Return the seal at `path` of the pictures in the folder of the same name, and their paths in its order.

    Raises UserError if it is damaged, or if a sealed file is missing or differs.
    """
    seal = read_file_seal(path)
    with report_damage(path):
        paths = [name_picture(path.with_suffix(""), seed) for _, seed in seal["parameters"]["pictures"]]
        for picture in paths:
            files, digests = (picture, picture.with_suffix(".safetensors")), seal["sha256"].get(picture.name, [None])
            for file, digest in zip(files, digests, strict=False):  # real pictures have no latents
                if not file.is_file() or hash_file(file) != digest:
                    raise UserError(f"{file} is missing or not what was drawn; delete {path} and run again")
    return seal, paths


def read_set(seals: Sequence[Path], features: Sequence[Path], variant: str) -> PictureSet:
    """Return the pictures of `variant`, from its shards' seals, with their features.

    Raises UserError if they are damaged, of another variant, or do not belong together.
    """
    rows, paths, origins = [], [], []
    for path in seals:
        seal, pictures = list_sealed(path)
        with report_damage(path):
            if seal["parameters"]["variant"] != variant:
                raise UserError(
                    f"{path} belongs to {seal['parameters']['variant']}, not {variant}; delete it and run again"
                )
            rows += [(prompt, seed) for prompt, seed in seal["parameters"]["pictures"]]
        paths += pictures
        origins.append(identify_work(seal))
    found = read_features(features, variant)
    if found.origins != origins:
        raise UserError(
            f"{features[0].parent} has features of other pictures than {seals[0].parent}; delete it and run again"
        )
    return PictureSet(found, rows, paths)


def check_pairs(name: str, found: PictureSet, other: str, reference: PictureSet, moved: int) -> None:
    """Raise UserError unless both sets have the same prompts and seeds; the seeds of `found` are offset by `moved`."""
    if found.rows == [(prompt, seed + moved) for prompt, seed in reference.rows]:
        return
    raise UserError(
        f"{name} has {len(found.rows)} pictures and {other} {len(reference.rows)}, which are not of the same prompts"
        " and seeds; delete the images folder and run again"
    )
