"""The calibration set: selected states of all trajectories, shuffled, in one sealed Zarr group.

Arrays over the points: xs (points, h, w, c) float16; ts and sigmas (points,) float32; steps and prompt_indices
(points,) int64. Beside them cs (prompts, 2, tokens, width) and cs_pooled (prompts, 2, width), float32. The attributes
`prompts` and `cfg_scale` repeat what the seal's parameters say.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workflow_scripts.store.errors import UserError
from workflow_scripts.store.seal import Seal, read_group_seal
from workflow_scripts.store.zarr_arrays import ArraySpec, check_group, read_chunk

PART_BYTES = 1 << 20  # of xs in a chunk, about; also what readers hold at a time
POINT_ARRAYS = ("xs", "ts", "sigmas", "steps", "prompt_indices")
PROMPT_ARRAYS = ("cs", "cs_pooled")


def list_specs(
    points: int, latent_shape: Sequence[int], cs_shape: Sequence[int], cs_pooled_shape: Sequence[int]
) -> dict[str, ArraySpec]:
    """The arrays of a set of `points` points, by name; a chunk is some points of about a megabyte, or one prompt."""
    shape = tuple(latent_shape)
    part = min(points, max(1, PART_BYTES // (2 * math.prod(shape))))
    specs = [ArraySpec("xs", (points, *shape), (part, *shape), "float16")]
    specs += [ArraySpec(name, (points,), (part,), "float32") for name in ("ts", "sigmas")]
    specs += [ArraySpec(name, (points,), (part,), "int64") for name in ("steps", "prompt_indices")]
    for name, whole in zip(PROMPT_ARRAYS, (cs_shape, cs_pooled_shape), strict=True):
        specs.append(ArraySpec(name, tuple(whole), (1, *whole[1:]), "float32"))
    return {spec.name: spec for spec in specs}


@dataclass(frozen=True)
class Calibration:
    """A sealed calibration set, opened."""

    path: Path
    seal: Seal
    specs: dict[str, ArraySpec]

    def iterate_parts(self, name: str) -> Iterator[np.ndarray]:
        """The array `name`, one chunk of its first axis after the other. Raises UserError naming a damaged file."""
        for index in range(self.specs[name].file_count[0]):
            yield read_chunk(self.path, self.specs[name], (index,))

    def read(self, name: str) -> np.ndarray:
        """The whole array `name`. Raises UserError naming a damaged file."""
        return np.concatenate(list(self.iterate_parts(name)))

    def read_rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """The rows at `indices` (n,) of the array `name`, which need not fit in memory. Raises as `read`."""
        spec = self.specs[name]
        rows = np.empty((len(indices), *spec.shape[1:]), spec.dtype)
        start = 0
        for part in self.iterate_parts(name):
            here = (indices >= start) & (indices < start + len(part))
            rows[here] = part[indices[here] - start]
            start += len(part)
        return rows

    def verify(self) -> None:
        """Read everything. Raises UserError naming what is not what was sealed."""
        for name in self.specs:
            digest = hashlib.sha256()
            for part in self.iterate_parts(name):
                digest.update(part.data)
            if digest.hexdigest() != self.seal["sha256"][name]:
                raise UserError(f"{self.path / name} is not what was sealed; delete {self.path} and run again")


def open_calibration(path: Path) -> Calibration:
    """The calibration set in the folder `path`, its seal and the description of its arrays checked.

    Raises UserError if it is missing, unfinished or damaged.
    """
    seal = read_group_seal(path)
    shapes = (seal["inputs"][name] for name in ("latent_shape", "cs_shape", "cs_pooled_shape"))
    count = seal["parameters"]["trajectories"] * seal["parameters"]["selected_steps"]
    specs = list_specs(count, *shapes)
    check_group(path, list(specs.values()))
    return Calibration(path, seal, specs)
