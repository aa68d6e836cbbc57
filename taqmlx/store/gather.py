"""Gather calibration points from trajectories in constant memory.

Point j K + k is the state of trajectory j at the k-th of K selected steps; position i of the set holds point
`permutation[i]`. The points of one trajectory at a time are written to their positions in a flat scratch file; the file
is then split into the chunks of the set.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from taqmlx.numerics.calibration_points import invert_permutation
from taqmlx.store.calibration import POINT_ARRAYS, PROMPT_ARRAYS
from taqmlx.store.conditioning import Conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.files import name_file
from taqmlx.store.trajectories import Trajectory
from taqmlx.store.zarr_arrays import ArraySpec, write_chunks


@dataclass(frozen=True)
class Selection:
    """Selected points: the states of all trajectories at `steps` (K,), with their `ts` and `sigmas` (K,), in the order
    of `permutation` (trajectories K,)."""

    steps: np.ndarray
    ts: np.ndarray
    sigmas: np.ndarray
    permutation: np.ndarray


def scatter_states(file: BinaryIO, trajectories: Iterable[Trajectory], selection: Selection) -> np.ndarray:
    """Write the selected states of `trajectories`, in any order, to their positions in `file`.

    Returns the prompt index of each trajectory, (N,) int64. Raises UserError unless each of the N occurs exactly once.
    """
    places = invert_permutation(selection.permutation).reshape(-1, len(selection.steps))  # (N, K)
    prompts = np.full(len(places), -1, dtype=np.int64)
    for trajectory in trajectories:
        if prompts[trajectory.number] >= 0:
            raise UserError(f"trajectory {trajectory.number} is in two shards; delete one and run again")
        prompts[trajectory.number] = trajectory.prompt_index
        for place, state in zip(places[trajectory.number], trajectory.states[selection.steps], strict=True):
            os.pwrite(file.fileno(), state.data, int(place) * state.nbytes)
    if (prompts < 0).any():
        raise UserError(f"trajectory {np.argmin(prompts)} is in no shard; make its shard again")
    return prompts


def write_points(
    file: BinaryIO, prompts: np.ndarray, selection: Selection, path: Path, specs: dict[str, ArraySpec]
) -> dict[str, str]:
    """Fill the point arrays of the group at `path` from `file` and the selection.

    prompts (N,) is the prompt index of each trajectory. Returns the arrays' sha256 (hex).
    """
    digests = {name: hashlib.sha256() for name in POINT_ARRAYS}
    chunk, shape = specs["xs"].chunks[0], specs["xs"].shape[1:]
    for start in range(0, len(selection.permutation), chunk):
        points = selection.permutation[start : start + chunk]
        numbers, k = np.divmod(points, len(selection.steps))
        content = os.pread(file.fileno(), len(points) * 2 * int(np.prod(shape)), start * 2 * int(np.prod(shape)))
        values = {
            "xs": np.frombuffer(content, dtype=np.float16).reshape(-1, *shape),
            "ts": selection.ts[k],
            "sigmas": selection.sigmas[k],
            "steps": selection.steps[k],
            "prompt_indices": prompts[numbers],
        }
        write_chunks(path, [(specs[name], (start // chunk,), value) for name, value in values.items()])
        for name, value in values.items():
            digests[name].update(np.ascontiguousarray(value).data)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def write_conditions(conditioning: Conditioning, count: int, path: Path, specs: dict[str, ArraySpec]) -> dict[str, str]:
    """Copy the encodings of `count` prompts to the group at `path`, one at a time; return their sha256 (hex)."""
    digests = {name: hashlib.sha256() for name in PROMPT_ARRAYS}
    for index in range(count):
        for name, value in zip(PROMPT_ARRAYS, conditioning.read([index]), strict=True):
            write_chunks(path, [(specs[name], (index,), value)])
            digests[name].update(value.data)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def gather_points(
    flat: Path,
    trajectories: Iterable[Trajectory],
    selection: Selection,
    path: Path,
    specs: dict[str, ArraySpec],
) -> dict[str, str]:
    """Fill the point arrays of the group at `path` through the scratch file `flat`; return their sha256 (hex)."""
    with name_file(flat), flat.open("w+b", buffering=0) as file:
        prompts = scatter_states(file, trajectories, selection)
        return write_points(file, prompts, selection, path, specs)
