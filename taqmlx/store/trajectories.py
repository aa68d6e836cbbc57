"""A shard of denoising trajectories: one Zarr group, sealed, read one verified trajectory at a time.

Arrays, with `rows` the shard's trajectories and `steps` the Euler steps:
xs (rows, steps, h, w, c) float16, the latents before each step; latents (rows, h, w, c) float32, the final ones;
ts (steps,) float32, the model's timesteps; sigmas (steps + 1,) float32; trajectories, prompt_indices and seeds (rows,)
int64. A chunk of xs is one trajectory x `checkpoint_every` steps.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taqmlx.planning import plan
from taqmlx.store.errors import UnreachableError, UserError, blame
from taqmlx.store.files import read_plain_json
from taqmlx.store.places import Place
from taqmlx.store.seal import Seal, check_origin, read_group_seal
from taqmlx.store.zarr_arrays import ArraySpec, check_group, find_missing, find_strays, read_chunk, read_chunks

ROOT = {"attributes": {}, "node_type": "group", "zarr_format": 3}  # of the store whose members are the shards
IDENTITIES = ("trajectories", "prompt_indices", "seeds")
SMALL_ARRAYS = ("ts", "sigmas", *IDENTITIES)


@dataclass(frozen=True)
class Layout:
    """The arrays of a shard: `rows` trajectories of `steps` steps, `block` steps a chunk."""

    rows: int
    steps: int
    block: int
    latent_shape: tuple[int, ...]

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """The arrays by name."""
        rows, steps, shape = self.rows, self.steps, self.latent_shape
        specs = [
            ArraySpec("xs", (rows, steps, *shape), (1, self.block, *shape), "float16"),
            ArraySpec("latents", (rows, *shape), (1, *shape), "float32"),
            ArraySpec("ts", (steps,), (steps,), "float32"),
            ArraySpec("sigmas", (steps + 1,), (steps + 1,), "float32"),
            *(ArraySpec(name, (rows,), (rows,), "int64") for name in IDENTITIES),
        ]
        return {spec.name: spec for spec in specs}

    def read_states(self, path: Place, row: int, end: int) -> np.ndarray:
        """The states (end, h, w, c) of a row before step `end`, from the group in `path`. Raises UserError."""
        spec, blocks = self.specs["xs"], range(-(-end // self.block))
        chunks = read_chunks(path, [(spec, (row, k)) for k in blocks])
        states: np.ndarray = np.concatenate([chunk[0] for chunk in chunks])
        return states[:end]

    def read_latents(self, path: Place, row: int) -> np.ndarray:
        """The final latents (h, w, c) of a row, from the group in `path`. Raises UserError."""
        latents: np.ndarray = read_chunk(path, self.specs["latents"], (row,))[0]
        return latents


def plan_layout(parameters: plan.Parameters, latent_shape: Sequence[int]) -> Layout:
    """The layout of the shard of `parameters` (those of `plan.select_shard`)."""
    steps = parameters["steps"]
    return Layout(len(parameters["rows"]), steps, min(parameters["checkpoint_every"], steps), tuple(latent_shape))


def list_identities(parameters: plan.Parameters) -> dict[str, np.ndarray]:
    """`trajectories`, `prompt_indices` and `seeds`, (rows,) int64, of a shard's parameters."""
    rows = np.array(parameters["rows"], dtype=np.int64).reshape(-1, 2)
    return dict(zip(IDENTITIES, (rows[:, 0], rows[:, 1], parameters["seed"] + rows[:, 0]), strict=True))


def begin_digest(number: int, prompt_index: int) -> "hashlib._Hash":
    """The sha256 of trajectory `number`, to be fed its states (float16, step after step), then its final latents."""
    return hashlib.sha256(np.array([number, prompt_index], dtype="<i8").tobytes())


def digest_arrays(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """sha256 (hex) of the little-endian bytes of each array."""
    return {name: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for name, array in arrays.items()}


@dataclass(frozen=True)
class Trajectory:
    """One verified trajectory: its number, its prompt's index, its states (steps, h, w, c) float16 and its final
    latents (h, w, c) float32."""

    number: int
    prompt_index: int
    states: np.ndarray
    latents: np.ndarray


@dataclass(frozen=True)
class Shard:
    """A sealed shard, opened: its place, seal, layout and small arrays."""

    path: Place
    seal: Seal
    layout: Layout
    small: dict[str, np.ndarray]

    def read_trajectory(self, row: int) -> Trajectory:
        """The trajectory in `row`, verified. Raises UserError naming the damaged, missing or misplaced files."""
        with blame(self.path):
            number, prompt_index = self.seal["parameters"]["rows"][row]
            sealed = self.seal["sha256"]["trajectories"][str(number)]
        states = self.layout.read_states(self.path, row, self.layout.steps)
        latents = self.layout.read_latents(self.path, row)
        digest = begin_digest(number, prompt_index)
        digest.update(states.data)
        digest.update(latents.data)
        if digest.hexdigest() != sealed:
            raise UserError(
                f"{self.path}/xs/c.{row}.* or {self.path}/latents/c.{row}.*: trajectory {number} is not what was"
                f" sealed, its chunks were changed or swapped; delete {self.path} and run again"
            )
        return Trajectory(number, prompt_index, states, latents)


def open_shard(path: Place, parameters: plan.Parameters, inputs: dict[str, Any]) -> Shard:
    """The shard in the folder `path`, its seal, arrays and small arrays checked; trajectories are when they are read.

    Only the parameters and inputs given are compared with the seal's. Raises UserError naming what is wrong.
    """
    seal = read_group_seal(path)
    check_origin(seal, path, parameters, inputs)
    with blame(path):
        layout = plan_layout(seal["parameters"], seal["inputs"]["latent_shape"])
        specs = layout.specs
        check_group(path, list(specs.values()))
        chunks = read_chunks(path, [(specs[name], (0,)) for name in SMALL_ARRAYS])
        small = dict(zip(SMALL_ARRAYS, chunks, strict=True))
        for name, digest in digest_arrays(small).items():
            if digest != seal["sha256"]["arrays"][name]:
                raise UserError(f"{path / name} is not what was sealed; delete {path} and run again")
    return Shard(path, seal, layout, small)


def check_root(store: Place) -> None:
    """Raise UserError unless what makes the folder `store` a store is whole; no other program opens it otherwise."""
    path = store / "zarr.json"
    if read_plain_json(path) != ROOT:
        raise UserError(f"{path} is damaged; delete it and run create_store again")


def open_shards(store: Place, stage: plan.Parameters) -> Iterator[Shard]:
    """Every shard that `stage`, the parameters of `collect_shard`, asks for. Raises UserError as `open_shard`."""
    check_root(store)
    for name in plan.list_shards(stage):
        yield open_shard(store / name, plan.select_shard(stage, name), {})


def find_faults(path: Place, parameters: plan.Parameters, inputs: dict[str, Any]) -> Iterator[str]:
    """A line for each fault of the shard in `path`; none if it is whole and was made with `parameters` and `inputs`.

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
