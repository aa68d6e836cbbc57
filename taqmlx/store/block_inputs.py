"""Captured block inputs at calibration points: one sealed Zarr group per shard of the points and group of blocks.

Each point gives two rows, one with its prompt and one with the negative prompt, or a single row for a model without
guidance. Rows come in batches of `choose_batch` points; within a batch all positive rows come first, then all negative
ones. With R rows: image (blocks + 1, R, N, D) and text (blocks, R, T, D), float16, are the inputs of each block, which
are the outputs of the block before it; the last entry of image is the last block's output. The blocks are those of the
model, or a group of consecutive ones, with the outputs of its last block in both streams. modulation (R, D) float32 is
the input of all adaLN linears. sigmas is (R,) float32; steps, points (indices in the calibration set), prompt_indices
and negative (0 or 1) are (R,) int64. A chunk is a batch of rows of one block.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from taqmlx.numerics.footprint import limit_batch
from taqmlx.planning import plan
from taqmlx.planning.capture_groups import find_span
from taqmlx.planning.documents import Inputs
from taqmlx.planning.stage_groups import ModelStage
from taqmlx.planning.stages import CaptureParameters
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.seal import Seal, check_origin, fingerprint_origin, read_group_seal
from taqmlx.store.zarr_arrays import ArraySpec, Index, check_group, read_chunk

BATCH = 32  # largest number of points captured together
ROW_ARRAYS = ("sigmas", "steps", "points", "prompt_indices", "negative")
SMALL_ARRAYS = ("modulation", *ROW_ARRAYS)
FOLDS = "folds"  # name, among the digests of a model, of the folds in its weights; the block inputs are the same
# Parameters that differ between shards; all other parameters and all inputs are shared.
OWN = ("shard", "points")


def choose_batch(conditions: int, image_shape: Sequence[int], text_shape: Sequence[int]) -> int:
    """Number of points captured together, one row per condition; a row's image is (N, D), its text (T, D)."""
    return limit_batch(BATCH, image_shape[0] + text_shape[0], image_shape[1], rows=conditions)


def list_specs(
    points: int, conditions: int, images: int, texts: int, image_shape: Sequence[int], text_shape: Sequence[int]
) -> dict[str, ArraySpec]:
    """Arrays of a shard of `points` points and the states between blocks, by name.

    images, texts: number of states of each stream (`count_states`); a row's image is (N, D) and its text (T, D).
    """
    rows, width = conditions * points, image_shape[-1]
    chunk = conditions * min(points, choose_batch(conditions, image_shape, text_shape))
    specs = [
        ArraySpec("image", (images, rows, *image_shape), (1, chunk, *image_shape), "float16"),
        ArraySpec("text", (texts, rows, *text_shape), (1, chunk, *text_shape), "float16"),
        ArraySpec("modulation", (rows, width), (chunk, width), "float32"),
        ArraySpec("sigmas", (rows,), (rows,), "float32"),
        *(ArraySpec(name, (rows,), (rows,), "int64") for name in ROW_ARRAYS[1:]),
    ]
    return {spec.name: spec for spec in specs}


def count_states(span: range, blocks: int) -> tuple[int, int]:
    """Number of images and of texts around the blocks `span` of a model of `blocks`, which ends without a text."""
    return len(span) + 1, len(span) + (span.stop < blocks)


def list_input_specs(job: CaptureParameters, inputs: Inputs) -> dict[str, ArraySpec]:
    """Arrays of a shard; `inputs` are those of its seal."""
    states = count_states(find_span(job.model, job.blocks), len(plan.list_block_names(job.model)))
    conditions = plan.count_conditions(job.model)
    return list_specs(len(job.points), conditions, *states, inputs["image_shape"], inputs["text_shape"])


def count_bytes(specs: dict[str, ArraySpec]) -> int:
    """Uncompressed size of the arrays in bytes; compression gains little on float16."""
    return sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs.values())


def list_batches(points: int, size: int) -> list[slice]:
    """Batches of at most `size` points in which `points` points are captured."""
    return [slice(start, min(start + size, points)) for start in range(0, points, size)]


def order_rows(batches: Sequence[slice], conditions: int) -> tuple[np.ndarray, np.ndarray]:
    """Point index of each row of `batches`, and 1 for rows of the negative prompt: both (rows,) int64."""
    places = [np.tile(np.arange(batch.start, batch.stop), conditions) for batch in batches]
    negative = [np.repeat(np.arange(conditions), batch.stop - batch.start) for batch in batches]
    return np.concatenate(places), np.concatenate(negative)


def digest_values(values: np.ndarray) -> str:
    """sha256 (hex) of the little-endian bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def read_sealed(path: Path, spec: ArraySpec, index: Index, digests: dict[str, str]) -> np.ndarray:
    """Read and check a chunk of the group at `path`; `digests` are by file. Raises UserError naming the file."""
    values, file = read_chunk(path, spec, index), spec.name_file(index)
    if digest_values(values) != digests.get(file):
        raise UserError(f"{path / file} does not match its seal; delete {path} and run again")
    return values


@dataclass(frozen=True)
class InputShard:
    """One opened shard; `span` has the indices of its blocks."""

    path: Path
    seal: Seal
    specs: dict[str, ArraySpec]
    span: range

    @property
    def fingerprint(self) -> str:
        """Identity of the shard's rows, whichever blocks they are captured for; sha256 (hex)."""
        parameters = {key: value for key, value in self.seal["parameters"].items() if key != "blocks"}
        return fingerprint_origin(parameters, self.seal["inputs"])

    def iterate_chunks(self, name: str, *first: int) -> Iterator[np.ndarray]:
        """Iterate over the chunks of an array whose index begins with `first`, in row order. Raises UserError."""
        for index in self.specs[name].list_chunks():
            if index[: len(first)] == first:
                values = read_sealed(self.path, self.specs[name], index, self.seal["sha256"])
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    self._reject(name, index, values)
                yield values

    def _reject(self, name: str, index: Index, values: np.ndarray) -> None:
        """Raise UserError, naming file and calibration point, for a chunk with values that are not finite."""
        spec, axis = self.specs[name], 0 if name in SMALL_ARRAYS else 1  # row axis
        row = int(np.argwhere(~np.isfinite(values))[0, axis]) + index[axis] * spec.chunks[axis]
        point = read_chunk(self.path, self.specs["points"])[row]
        raise UserError(
            f"{self.path / spec.name_file(index)}: a value at calibration point {point} is not finite;"
            f" check the model's weights, delete {self.path} and run capture_blocks again"
        )

    def verify(self) -> None:
        """Read everything. Raises UserError naming the first file that differs from its seal."""
        for name in self.specs:
            for _ in self.iterate_chunks(name):
                pass


def open_input_shard(path: Path) -> InputShard:
    """Open the shard in folder `path`; check its seal and the description of its arrays. Raises UserError."""
    seal = read_group_seal(path)
    check_origin(seal, path, {"stage": "capture_blocks"}, {})
    with report_damage(path):
        parameters = CaptureParameters.decode(seal["parameters"])
        specs = list_input_specs(parameters, seal["inputs"])
        check_group(path, list(specs.values()))
        return InputShard(path, seal, specs, find_span(parameters.model, parameters.blocks))


@dataclass(frozen=True)
class BlockInputs:
    """All shards concatenated: rows (R,) of the first shard, then of the second, and so on; the same for each group."""

    shards: list[InputShard]
    modulation: np.ndarray
    sigmas: np.ndarray
    steps: np.ndarray
    points: np.ndarray
    prompt_indices: np.ndarray
    negative: np.ndarray

    @property
    def seals(self) -> list[Seal]:
        """Seals of the shards."""
        return [shard.seal for shard in self.shards]

    def read_block(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of block `index`: image (R, N, D) and text (R, T, D), float16. Raises UserError naming a file."""
        return self._read("image", index, index), self._read("text", index, index)

    def read_targets(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Outputs of block `index`, as `read_block`; no text for the last block. Raises UserError naming a file."""
        last = index + 1 == len(plan.list_block_names(self.shards[0].seal["parameters"]["model"]))
        return self._read("image", index, index + 1), None if last else self._read("text", index, index + 1)

    def _read(self, name: str, block: int, state: int) -> np.ndarray:
        """State `state` of a stream, counted in the model, from the shards that have the block with index `block`."""
        values = np.empty((len(self.points), *self.shards[0].specs[name].shape[2:]), np.float16)
        start, span = 0, next(shard.span for shard in self.shards if block in shard.span)
        own = [shard for shard in self.shards if shard.span == span]
        for chunk in (chunk for shard in own for chunk in shard.iterate_chunks(name, state - span.start)):
            values[start : start + chunk.shape[1]] = chunk[0]  # (1, rows, tokens, D)
            start += chunk.shape[1]
        return values


def open_block_inputs(paths: Sequence[Path]) -> BlockInputs:
    """Open the shards in folders `paths`, in any order, as one.

    Raises UserError, naming the file, if a shard is missing, unfinished or damaged, or does not belong with the others.
    """
    shards = list(map(open_input_shard, paths))
    with report_damage(paths[0].parent):
        shards.sort(key=lambda shard: (shard.span.start, shard.seal["parameters"]["shard"]))
        groups = [list(group) for _, group in groupby(shards, key=lambda shard: shard.span.start)]
        for group in groups:
            check_input_shards(group)
            if [shard.fingerprint for shard in group] != [shard.fingerprint for shard in groups[0]]:
                raise UserError(f"{group[0].path} and {shards[0].path} have different rows; delete both and run again")
    small = {name: [chunk for shard in groups[0] for chunk in shard.iterate_chunks(name)] for name in SMALL_ARRAYS}
    return BlockInputs(shards, **{name: np.concatenate(chunks) for name, chunks in small.items()})


def identify_block(inputs: BlockInputs, parameters: ModelStage, block: str, model: dict[str, str]) -> Inputs:
    """Origin of work on `block` with `parameters`: digests of the model's files, and fingerprints of the shards.

    Raises UserError if these do not belong together, the model has no such block, or no shard has its rows.
    """
    captured = {name: digest for name, digest in model.items() if name != FOLDS}
    for shard in inputs.shards:
        check_origin(shard.seal, shard.path, plan.select_row_keys(parameters), {"model": captured})
    blocks = plan.list_block_names(parameters.model)
    if block not in blocks:
        raise UserError(f"{block}: the model {parameters.model} has the blocks {', '.join(blocks)}")
    if not any(blocks.index(block) in shard.span for shard in inputs.shards):
        raise UserError(f"{inputs.shards[0].path} has no rows of {block}; name the shards of its group")
    # The same for every group, so that a block does not depend on the groups.
    return {"model": model, "block_inputs": list(dict.fromkeys(shard.fingerprint for shard in inputs.shards))}


def check_input_shards(shards: Sequence[InputShard]) -> None:
    """Raise UserError unless the shards are complete, have the same origin and share no point."""
    shared = {key: value for key, value in shards[0].seal["parameters"].items() if key not in OWN}
    seen: dict[int, Path] = {}
    for shard in shards:
        check_origin(shard.seal, shard.path, shared, shards[0].seal["inputs"])
        points = shard.seal["parameters"]["points"]
        if common := seen.keys() & set(points):
            other = seen[min(common)]
            raise UserError(
                f"{shard.path} and {other} have calibration point {min(common)}; name each shard once, or delete both"
                " and run capture_blocks again"
            )
        seen |= dict.fromkeys(points, shard.path)
    expected, found = (
        plan.list_stage_shards(shared["capture_shards"]),
        [shard.seal["parameters"]["shard"] for shard in shards],
    )
    if found != expected:
        raise UserError(
            f"{shards[0].path.parent}: shards {', '.join(expected)} are needed and {', '.join(found)} are named;"
            " run capture_blocks for the others"
        )
