"""Shard of denoising trajectories: one sealed Zarr group, read one verified trajectory at a time.

Arrays, with `rows` trajectories in the shard and `steps` Euler steps: xs (rows, steps, h, w, c) float16, the latents
before each step; latents (rows, h, w, c) float32, the final ones; ts (steps,) float32, the model's timesteps; sigmas
(steps + 1,) float32; trajectories, prompt_indices and seeds (rows,) int64. A chunk of xs is one trajectory x
`checkpoint_every` steps.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from taqmlx.planning import plan
from taqmlx.planning.documents import Inputs
from taqmlx.planning.stages import CollectShard, ShardParameters
from taqmlx.store.errors import UnreachableError, UserError, report_damage
from taqmlx.store.files import read_plain_json
from taqmlx.store.locations import Location
from taqmlx.store.seal import Seal, check_origin, read_group_seal
from taqmlx.store.zarr_arrays import ArraySpec, check_group, find_missing, find_strays, read_chunk, read_chunks

ROOT = {"attributes": {}, "node_type": "group", "zarr_format": 3}  # metadata of the store that contains the shards
IDENTITIES = ("trajectories", "prompt_indices", "seeds")
SMALL_ARRAYS = ("ts", "sigmas", *IDENTITIES)


@dataclass(frozen=True)
class Layout:
    """Array layout of a shard: `rows` trajectories of `steps` steps, `block` steps per chunk."""

    rows: int
    steps: int
    block: int
    latent_shape: tuple[int, ...]

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """Array specs by name."""
        rows, steps, shape = self.rows, self.steps, self.latent_shape
        specs = [
            ArraySpec("xs", (rows, steps, *shape), (1, self.block, *shape), "float16"),
            ArraySpec("latents", (rows, *shape), (1, *shape), "float32"),
            ArraySpec("ts", (steps,), (steps,), "float32"),
            ArraySpec("sigmas", (steps + 1,), (steps + 1,), "float32"),
            *(ArraySpec(name, (rows,), (rows,), "int64") for name in IDENTITIES),
        ]
        return {spec.name: spec for spec in specs}

    def read_states(self, path: Location, row: int, end: int) -> np.ndarray:
        """Read the states (end, h, w, c) of a row before step `end` from the group at `path`. Raises UserError."""
        spec, blocks = self.specs["xs"], range(-(-end // self.block))
        chunks = read_chunks(path, [(spec, (row, k)) for k in blocks])
        states: np.ndarray = np.concatenate([chunk[0] for chunk in chunks])
        return states[:end]

    def read_latents(self, path: Location, row: int) -> np.ndarray:
        """Read the final latents (h, w, c) of a row from the group at `path`. Raises UserError."""
        latents: np.ndarray = read_chunk(path, self.specs["latents"], (row,))[0]
        return latents


def plan_layout(job: ShardParameters, latent_shape: Sequence[int]) -> Layout:
    """Layout of a shard."""
    return Layout(len(job.rows), job.steps, min(job.checkpoint_every, job.steps), tuple(latent_shape))


def list_identities(job: ShardParameters) -> dict[str, np.ndarray]:
    """`trajectories`, `prompt_indices` and `seeds`, (rows,) int64, of a shard."""
    rows = np.array(job.rows, dtype=np.int64).reshape(-1, 2)
    return dict(zip(IDENTITIES, (rows[:, 0], rows[:, 1], job.seed + rows[:, 0]), strict=True))


def begin_digest(number: int, prompt_index: int) -> "hashlib._Hash":
    """Start the sha256 of trajectory `number`; its states (float16, in step order), then its final latents, follow."""
    return hashlib.sha256(np.array([number, prompt_index], dtype="<i8").tobytes())


def digest_arrays(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """sha256 (hex) of the little-endian bytes of each array."""
    return {name: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for name, array in arrays.items()}


@dataclass(frozen=True)
class Trajectory:
    """One verified trajectory.

    number; prompt_index; states (steps, h, w, c) float16; latents (h, w, c) float32, the final ones.
    """

    number: int
    prompt_index: int
    states: np.ndarray
    latents: np.ndarray


@dataclass(frozen=True)
class Shard:
    """An opened, sealed shard: its location, seal, parameters, layout and small arrays."""

    path: Location
    seal: Seal
    job: ShardParameters
    layout: Layout
    small: dict[str, np.ndarray]

    def read_trajectory(self, row: int) -> Trajectory:
        """Read and verify the trajectory in `row`. Raises UserError naming the damaged, missing or misplaced files."""
        with report_damage(self.path):
            number, prompt_index = self.job.rows[row]
            sealed = self.seal["sha256"]["trajectories"][str(number)]
        states = self.layout.read_states(self.path, row, self.layout.steps)
        latents = self.layout.read_latents(self.path, row)
        digest = begin_digest(number, prompt_index)
        digest.update(states.data)
        digest.update(latents.data)
        if digest.hexdigest() != sealed:
            raise UserError(
                f"{self.path}/xs/c.{row}.* or {self.path}/latents/c.{row}.*: trajectory {number} does not"
                f" match its seal: chunks were changed or swapped; delete {self.path} and run again"
            )
        return Trajectory(number, prompt_index, states, latents)


def open_shard(path: Location, parameters: plan.Parameters, inputs: Inputs) -> Shard:
    """Open the shard at `path`; check its seal and small arrays. Trajectories are checked when read.

    Only the given parameters and inputs are compared with the seal's. Raises UserError naming the fault.
    """
    seal = read_group_seal(path)
    check_origin(seal, path, parameters, inputs)
    with report_damage(path):
        job = ShardParameters.decode(seal["parameters"])
        layout = plan_layout(job, seal["inputs"]["latent_shape"])
        specs = layout.specs
        check_group(path, list(specs.values()))
        chunks = read_chunks(path, [(specs[name], (0,)) for name in SMALL_ARRAYS])
        small = dict(zip(SMALL_ARRAYS, chunks, strict=True))
        for name, digest in digest_arrays(small).items():
            if digest != seal["sha256"]["arrays"][name]:
                raise UserError(f"{path / name} does not match its seal; delete {path} and run again")
    return Shard(path, seal, job, layout, small)


def check_root(store: Location) -> None:
    """Raise UserError unless the root metadata of `store` is intact; other programs need it to open the store."""
    path = store / "zarr.json"
    if read_plain_json(path) != ROOT:
        raise UserError(f"{path} is damaged; delete it and run create_store again")


def open_shards(store: Location, parameters: CollectShard) -> Iterator[Shard]:
    """Open every shard. Raises UserError as `open_shard`."""
    check_root(store)
    for name in plan.list_shards(parameters):
        yield open_shard(store / name, plan.select_shard(parameters, name).encode(), {})


def find_faults(path: Location, parameters: plan.Parameters, inputs: Inputs) -> Iterator[str]:
    """Yield a line for each fault of the shard at `path`; none if it is intact and of these `parameters` and `inputs`.

    Raises UnreachableError.
    """
    try:
        shard = open_shard(path, parameters, inputs)
    except UnreachableError:
        raise
    except UserError as error:
        yield str(error)
        return
    specs = list(shard.layout.specs.values())
    missing = list(find_missing(path, specs))
    yield from missing
    yield from find_strays(path, specs)
    for row in range(shard.layout.rows):
        try:
            shard.read_trajectory(row)
        except UnreachableError:
            raise
        except UserError as error:
            if str(error) not in missing:
                yield str(error)
