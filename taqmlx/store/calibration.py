"""Calibration set: selected states of all trajectories, shuffled, in one sealed Zarr group.

Arrays over the points: xs (points, h, w, c) float16; ts and sigmas (points,) float32; steps and prompt_indices
(points,) int64. Arrays over the prompts: cs (prompts, 2, tokens, width) and cs_pooled (prompts, 2, width), float32. The
attributes `prompts` and `cfg_scale` repeat the seal's parameters.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.planning import plan
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import read_plain_json
from taqmlx.store.seal import Seal, read_group_seal
from taqmlx.store.zarr_arrays import ArraySpec, check_group, read_chunk

CHUNK_BYTES = 1 << 20  # approximate bytes of xs per chunk; also the amount readers hold at a time
KEPT_BYTES = 1 << 28  # cache size for prompt encodings
POINT_ARRAYS = ("xs", "ts", "sigmas", "steps", "prompt_indices")
PROMPT_ARRAYS = ("cs", "cs_pooled")
FLAT_ARRAYS = ("xs", "ts", "prompt_indices", *PROMPT_ARRAYS)  # arrays of the set in the original flat format


def list_specs(
    points: int, latent_shape: Sequence[int], cs_shape: Sequence[int], cs_pooled_shape: Sequence[int]
) -> dict[str, ArraySpec]:
    """Arrays of a set of `points` points, by name; a chunk holds about a megabyte of points, or one prompt."""
    shape = tuple(latent_shape)
    chunk = min(points, max(1, CHUNK_BYTES // (2 * math.prod(shape))))
    specs = [ArraySpec("xs", (points, *shape), (chunk, *shape), "float16")]
    specs += [ArraySpec(name, (points,), (chunk,), "float32") for name in ("ts", "sigmas")]
    specs += [ArraySpec(name, (points,), (chunk,), "int64") for name in ("steps", "prompt_indices")]
    for name, whole in zip(PROMPT_ARRAYS, (cs_shape, cs_pooled_shape), strict=True):
        specs.append(ArraySpec(name, tuple(whole), (1, *whole[1:]), "float32"))
    return {spec.name: spec for spec in specs}


@dataclass(frozen=True)
class Calibration:
    """An opened, sealed calibration set."""

    path: Path
    seal: Seal
    specs: dict[str, ArraySpec]

    def iterate_chunks(self, name: str) -> Iterator[np.ndarray]:
        """Iterate over the chunks of array `name` along its first axis. Raises UserError naming a damaged file."""
        for index in range(self.specs[name].file_count[0]):
            yield read_chunk(self.path, self.specs[name], (index,))

    def read(self, name: str) -> np.ndarray:
        """Read the whole array `name`. Raises UserError naming a damaged file."""
        return np.concatenate(list(self.iterate_chunks(name)))

    def bind_conditions(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return `read(prompts (n,))`, which gives cs (n, 2, T, D) and cs_pooled (n, 2, W) of these prompts.

        The most recently read prompts are cached, up to KEPT_BYTES. Raises UserError naming a damaged file.
        """
        specs = [self.specs[name] for name in PROMPT_ARRAYS]
        size = sum(math.prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize for spec in specs)

        @lru_cache(maxsize=max(1, KEPT_BYTES // size))
        def read_prompt(prompt: int) -> list[np.ndarray]:
            return [read_chunk(self.path, spec, (prompt,))[0] for spec in specs]

        def read(prompts: np.ndarray) -> list[np.ndarray]:
            return [np.stack(parts) for parts in zip(*map(read_prompt, prompts.tolist()), strict=True)]

        return read

    def read_rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Read the rows at `indices` (n,) of array `name`, which need not fit in memory. Raises as `read`."""
        spec = self.specs[name]
        rows = np.empty((len(indices), *spec.shape[1:]), spec.dtype)
        start = 0
        for chunk in self.iterate_chunks(name):
            here = (indices >= start) & (indices < start + len(chunk))
            rows[here] = chunk[indices[here] - start]
            start += len(chunk)
        return rows

    def verify(self) -> None:
        """Read everything. Raises UserError naming the array that differs from its seal."""
        for name in self.specs:
            digest = hashlib.sha256()
            for chunk in self.iterate_chunks(name):
                digest.update(chunk.data)
            if digest.hexdigest() != self.seal["sha256"][name]:
                raise UserError(f"{self.path / name} does not match its seal; delete {self.path} and run again")


def open_calibration(path: Path) -> Calibration:
    """Open the calibration set in folder `path`; check its seal and the description of its arrays.

    Raises UserError if it is missing, unfinished or damaged.
    """
    seal = read_group_seal(path)
    with report_damage(path):
        shapes = (seal["inputs"][name] for name in ("latent_shape", "cs_shape", "cs_pooled_shape"))
        count = seal["parameters"]["trajectories"] * seal["parameters"]["selected_steps"]
        specs = list_specs(count, *shapes)
        check_group(path, list(specs.values()))
        if lacking := specs.keys() - seal["sha256"].keys():
            raise UserError(f"{path}: its seal has no digest of {min(lacking)}; delete it and run again")
        if difference := plan.describe_difference(read_attributes(path), list_attributes(seal["parameters"])):
            raise UserError(f"{path / 'zarr.json'} is not as sealed ({difference}); delete {path} and run again")
    return Calibration(path, seal, specs)


def list_attributes(parameters: plan.Parameters) -> dict[str, Any]:
    """Group attributes for readers that do not read seals."""
    return {key: parameters[key] for key in ("prompts", "cfg_scale") if key in parameters}


def read_attributes(path: Path) -> dict[str, Any]:
    """Attributes of the group at `path`, without its seal."""
    attributes = read_plain_json(path / "zarr.json", whole=path)["attributes"]
    return {key: value for key, value in attributes.items() if key != "seal"}
