"""Interruptible writing of one shard of the block inputs.

The scratch folder holds the Zarr group and a checkpoint: a seal of the chunks stored so far. A batch is written to the
chunk files first and to the checkpoint afterwards, each flushed to disk; chunks stored after the last checkpoint are
rewritten with the same bytes. The complete group is sealed, verified and renamed into place.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taqmlx.planning import plan
from taqmlx.planning.capture_groups import find_span
from taqmlx.planning.stages import CaptureParameters
from taqmlx.store.block_inputs import (
    choose_batch,
    count_bytes,
    digest_values,
    list_batches,
    list_input_specs,
    open_input_shard,
    order_rows,
    read_sealed,
)
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.seal import check_origin, read_file_seal
from taqmlx.store.sealed_job import SealedJob
from taqmlx.store.zarr_arrays import Index, check_group, create_group, find_strays, write_chunks


class BlockRecorder:
    """The shard of `job` under construction.

    The job's parameters are those of the stage, with `shard` and `points`, the indices of its points in the calibration
    set, and `blocks`, unless these are all; its inputs are the origin of the shard, with `image_shape` (N, D) and
    `text_shape` (T, D). `span` has the indices of the blocks.
    """

    def __init__(self, job: SealedJob):
        self.job, self.parameters = job, CaptureParameters.decode(job.parameters)
        self.path, self.checkpoint_path = job.group, job.scratch / "checkpoint.json"
        self.span = find_span(self.parameters.model, self.parameters.blocks)
        self.specs = list_input_specs(self.parameters, job.inputs)
        conditions = plan.count_conditions(self.parameters.model)
        size = choose_batch(conditions, job.inputs["image_shape"], job.inputs["text_shape"])
        self.batches = list_batches(len(self.parameters.points), size)
        self.digests: dict[str, str] = {}

    @property
    def done(self) -> int:
        """Number of stored batches."""
        return sum(file.startswith("modulation/") for file in self.digests)

    @property
    def stored_points(self) -> int:
        """Number of points in the stored batches."""
        return self.batches[self.done - 1].stop if self.done else 0

    def count_missing_bytes(self) -> int:
        """Uncompressed size in bytes of the rows not stored yet."""
        points = len(self.parameters.points)
        return count_bytes(self.specs) * (points - self.stored_points) // points

    def restore(self) -> bool:
        """Continue the shard in the scratch folder, after verifying it. Returns True.

        Raises UserError, naming the file, if it is damaged or was made with other parameters or inputs.
        """
        checkpoint = read_file_seal(self.checkpoint_path)
        check_origin(checkpoint, self.job.scratch, self.job.parameters, self.job.inputs)
        check_group(self.path, list(self.specs.values()))
        digests = checkpoint["sha256"]
        for spec in self.specs.values():
            for index in spec.list_chunks():
                if spec.name_file(index) in digests:
                    read_sealed(self.path, spec, index, digests)
        self.digests = digests
        return True

    def start(self, by_point: dict[str, np.ndarray]) -> None:
        """Create an empty group; by_point: `sigmas`, `steps` and `prompt_indices` (n,) of the points."""
        create_group(self.path, list(self.specs.values()))
        places, negative = order_rows(self.batches, plan.count_conditions(self.parameters.model))
        by_point = by_point | {"points": np.array(self.parameters.points, dtype=np.int64)}
        rows = {name: values[places] for name, values in by_point.items()} | {"negative": negative}
        self._store([(name, (0,), values) for name, values in rows.items()])
        self._write_checkpoint()

    def store_batch(self, modulation: np.ndarray, states: Iterator[tuple[np.ndarray, np.ndarray | None]]) -> None:
        """Store the next batch, then the checkpoint.

        modulation (B, D) and an iterator over images (B, N, D) and texts (B, T, D) between the blocks, float32; B rows
        of b points. Raises UserError, naming block, stream and point, for a value that float16 cannot hold.
        """
        batch = self.done
        for block, (image, text) in enumerate(states):
            streams = {"image": image} if text is None else {"image": image, "text": text}
            rounded = [(name, self._round(batch, block, name, values)) for name, values in streams.items()]
            self._store([(name, (block, batch), values[None]) for name, values in rounded])
        self._store([("modulation", (batch,), modulation)])
        self._write_checkpoint()

    def publish(self) -> None:
        """Seal, verify and publish the complete shard. Raises as `SealedJob.publish_group`."""
        self.job.publish_group(self.digests, self._verify)

    def _verify(self, group: Path) -> None:
        """Raise UserError for the first fault of the sealed group."""
        open_input_shard(group).verify()
        for fault in find_strays(group, list(self.specs.values())):
            raise UserError(fault)

    def _store(self, chunks: list[tuple[str, Index, np.ndarray]]) -> None:
        write_chunks(self.path, [(self.specs[name], index, values) for name, index, values in chunks])
        for name, index, values in chunks:
            whole = (*index, *(0,) * (values.ndim - len(index)))
            self.digests[self.specs[name].name_file(whole)] = digest_values(values)

    def _write_checkpoint(self) -> None:
        write_json(self.checkpoint_path, self.job.seal(self.digests))

    def _round(self, batch: int, block: int, stream: str, values: np.ndarray) -> np.ndarray:
        """Round (B, tokens, D) to float16. Raises UserError for the first value that is not finite or too large."""
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        bad = np.argwhere(~np.isfinite(rounded))
        if not len(bad):
            return rounded
        value = values[tuple(bad[0])]
        points = self.parameters.points[self.batches[batch]]
        names = [plan.list_block_names(self.parameters.model)[index] for index in self.span]
        place = f"{names[block]} reads" if block < len(names) else f"{names[-1]} gives"
        raise UserError(
            f"{place} the {stream} value {value:g} at calibration point {points[bad[0][0] % len(points)]}, which"
            f" {'is too large for float16' if np.isfinite(value) else 'is not finite'};"
            " check the model's weights, and that point in the calibration set"
        )
