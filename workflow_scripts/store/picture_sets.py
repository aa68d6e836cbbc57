"""All pictures of one variant: their features, and on demand themselves, shard after shard."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workflow_scripts.store.errors import UserError
from workflow_scripts.store.pictures import name_picture, read_latents, read_picture
from workflow_scripts.store.seal import read_file_seal
from workflow_scripts.store.tensors import read_metadata, read_tensors


@dataclass(frozen=True)
class Features:
    """arrays: (n, d) by name; about: what they were read with; pictures and resized: how many there are and were."""

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    pictures: int
    resized: int


@dataclass(frozen=True)
class PictureSet:
    """features; rows: the prompt's number and the seed of each picture; paths: where it lies."""

    features: Features
    rows: list[tuple[int, int]]
    paths: list[Path]

    @property
    def prompts(self) -> np.ndarray:
        """The number of each picture's prompt, (n,)."""
        return np.array([prompt for prompt, _ in self.rows])

    def read_pictures(self) -> np.ndarray:
        """(n, h, w, 3) uint8. Raises UserError for one that cannot be read, or of another size than the first."""
        pictures = [np.asarray(read_picture(path)) for path in self.paths]
        for path, picture in zip(self.paths, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise UserError(f"{path} has another size than {self.paths[0]}; delete it and run again")
        return np.stack(pictures)

    def read_latents(self) -> np.ndarray:
        """Final latents (n, h, w, c)."""
        return np.stack([read_latents(path) for path in self.paths])


def read_features(paths: Sequence[Path]) -> Features:
    """The features of all shards. Raises UserError if shards were read with different weights."""
    parts, abouts = [], []
    for path in paths:
        parts.append(read_tensors(path))
        abouts.append(json.loads(read_metadata(path)["about"]))
        if abouts[-1]["features"] != abouts[0]["features"]:
            raise UserError(f"{path} and {paths[0]} are features of different networks; delete both and run again")
    filled = [part for part in parts if part]
    if not filled:
        raise UserError(f"{paths[0].parent} has features of no picture")
    arrays = {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}
    sums = [sum(about[key] for about in abouts) for key in ("pictures", "resized")]
    return Features(arrays, abouts[0]["features"], *sums)


def choose_features(arrays: Mapping[str, np.ndarray]) -> str:
    """What FID and KID are computed of: Inception's features where there are any, else the classifier's."""
    return "inception" if "inception" in arrays else "classifier"


def read_set(seals: Sequence[Path], features: Sequence[Path]) -> PictureSet:
    """A variant's pictures by its shards' seals, and their features. Raises UserError if their numbers differ."""
    rows, paths = [], []
    for path in seals:
        for prompt, seed in read_file_seal(path)["parameters"]["pictures"]:
            rows.append((prompt, seed))
            paths.append(name_picture(path.with_suffix(""), seed))
    found = read_features(features)
    if found.pictures != len(rows):
        raise UserError(f"{features[0].parent} has features of {found.pictures} pictures, not {len(rows)}; delete it")
    return PictureSet(found, rows, paths)


def check_pairs(name: str, found: PictureSet, other: str, reference: PictureSet, moved: int) -> None:
    """Raise UserError unless both sets show the same prompts from the same seeds, `moved` on in `found`."""
    if found.rows == [(prompt, seed + moved) for prompt, seed in reference.rows]:
        return
    raise UserError(
        f"{name} has {len(found.rows)} pictures and {other} {len(reference.rows)}, which are not of the same prompts"
        " and seeds; delete the images folder and run again"
    )
