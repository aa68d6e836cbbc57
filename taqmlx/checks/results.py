"""Results folder under check: its paths, and the expected values from the configuration."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.planning import plan
from taqmlx.planning.documents import Inputs
from taqmlx.planning.stages import CollectShard, ShardParameters
from taqmlx.store.conditioning import Conditioning, list_inputs, open_conditioning
from taqmlx.store.errors import UnreachableError, UserError
from taqmlx.store.locations import Location, list_folders
from taqmlx.store.parameters import read_parameters
from taqmlx.store.trajectories import Layout, plan_layout


class Report(NamedTuple):
    """Result of a check: a description, a line for each fault, and a line for each item that cannot be checked."""

    detail: str
    faults: list[str]
    notes: Sequence[str] = ()


class Results:
    """A results folder and its `store` of trajectories.

    `picks` random steps and pictures, drawn with `seed`, are computed again.
    """

    def __init__(self, folder: Path, store: Location, picks: int, seed: int):
        self.folder, self.store, self.picks, self.seed = folder, store, picks, seed

    @cached_property
    def parameters(self) -> CollectShard:
        """Parameters of the trajectories."""
        return read_parameters(CollectShard, self.folder / "params" / "collect_shard.json")

    @cached_property
    def conditioning(self) -> Conditioning:
        """Prompt encodings."""
        return open_conditioning(self.folder / "conditioning.safetensors", self.parameters.encode())

    @cached_property
    def model(self) -> Model:
        """Model of the trajectories."""
        return find_model(self.parameters.model, self.parameters)

    @cached_property
    def sigmas(self) -> np.ndarray:
        """Noise levels (steps + 1,) of the configuration."""
        return np.array(self.model.compute_sigmas(self.parameters.steps))

    @cached_property
    def folders(self) -> list[str]:
        """Folders in the store."""
        return list_folders(self.store)

    @cached_property
    def shards(self) -> list[str]:
        """Planned shards that exist, complete or not."""
        present = set(self.folders)
        return [name for name in plan.list_shards(self.parameters) if name in present]

    def select(self, shard: str) -> ShardParameters:
        """Parameters of a shard."""
        return plan.select_shard(self.parameters, shard)

    def plan_layout(self, shard: str) -> Layout:
        """Expected arrays of a shard."""
        return plan_layout(self.select(shard), self.model.LATENT_SHAPE)

    def list_inputs(self, shard: str) -> Inputs:
        """Expected inputs of a shard."""
        return list_inputs(self.conditioning, self.select(shard).rows)

    def iterate_rows(self) -> Iterator[tuple[str, int, int]]:
        """Iterate over the planned trajectories of the existing shards: shard, row and number."""
        for shard in self.shards:
            for row, (number, _) in enumerate(self.select(shard).rows):
                yield shard, row, number

    def read_row(self, shard: str, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Read states (steps, h, w, c) and final latents (h, w, c) without checking the seal.

        Raises UserError for a missing or damaged chunk.
        """
        layout = self.plan_layout(shard)
        path = self.store / shard
        return layout.read_states(path, row, layout.steps), layout.read_latents(path, row)


def read_or_none(results: Results, shard: str, row: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Call `Results.read_row`; None if the row is unreadable, which the checksum checks report.

    Raises UnreachableError.
    """
    try:
        return results.read_row(shard, row)
    except UnreachableError:
        raise
    except UserError:
        return None
