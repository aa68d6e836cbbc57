"""Interruptible writing of a shard: recorded in a scratch folder, sealed, renamed into place.

The scratch folder holds the Zarr group and a checkpoint. A chunk of steps is written to the chunk files first and to
the checkpoint afterwards, each flushed to disk: after a crash the checkpoint describes only stored data, and chunks
stored after it are rewritten with the same bytes.
"""

import hashlib
from pathlib import Path

import numpy as np

from taqmlx.planning.stages import ShardParameters
from taqmlx.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.seal import Seal
from taqmlx.store.sealed_job import SealedJob
from taqmlx.store.trajectories import (
    SMALL_ARRAYS,
    Layout,
    begin_digest,
    digest_arrays,
    find_faults,
    list_identities,
    plan_layout,
)
from taqmlx.store.zarr_arrays import ArraySpec, Index, check_group, create_group, write_chunks


class Recorder:
    """The shard of `job` under construction; schedule: `ts` (steps,) and `sigmas` (steps + 1,), float32."""

    def __init__(self, job: SealedJob, schedule: dict[str, np.ndarray]):
        self.job, self.parameters = job, ShardParameters.decode(job.parameters)
        self.path, self.checkpoint_path = job.group, job.scratch / "checkpoint"
        self.layout: Layout = plan_layout(self.parameters, job.inputs["latent_shape"])
        self.specs = self.layout.specs
        self.small = schedule | list_identities(self.parameters)
        self.digests: list[hashlib._Hash] = []

    def restore(self) -> Checkpoint:
        """Continue the shard in the scratch folder, after verifying it.

        Raises UserError, naming the file, if it is damaged or was made with other parameters or inputs.
        """
        checkpoint = read_checkpoint(self.checkpoint_path)
        if checkpoint.fingerprint != self.job.fingerprint:
            raise UserError(f"{self.job.scratch} was made with other parameters or inputs")
        check_group(self.path, list(self.specs.values()))
        self.digests = []
        with report_damage(self.checkpoint_path):
            for row, wanted in enumerate(checkpoint.digests):
                digest = self._hash_row(row, self.layout.steps if row < checkpoint.row else checkpoint.step)
                if digest.hexdigest() != wanted:
                    raise UserError(
                        f"{self.path}/xs/c.{row}.* or {self.path}/latents/c.{row}.* is not what was written"
                    )
                self.digests.append(digest)
        return checkpoint

    def start(self) -> None:
        """Create an empty scratch folder, discarding any previous content."""
        self.job.clear()
        create_group(self.path, list(self.specs.values()))
        write_chunks(self.path, ((self.specs[name], (0,), self.small[name]) for name in SMALL_ARRAYS))
        self.digests = []

    def round_states(self, row: int, step: int, latents: np.ndarray) -> np.ndarray:
        """Round the latents (n, h, w, c) float32 of the rows from `row`, before `step`, to float16.

        Raises UserError, naming trajectory, prompt and step, if a value is not finite or too large for float16.
        """
        with np.errstate(over="ignore"):
            rounded = latents.astype(np.float16)
        if not np.isfinite(rounded).all():
            self._reject(row, step, ~np.isfinite(rounded), latents)
        return rounded

    def store_chunk(self, row: int, step: int, states: np.ndarray, latents: np.ndarray) -> None:
        """Store a chunk of steps of the rows in the current batch, then the checkpoint.

        states (n, block, h, w, c) float16: rows `row` to `row + n` at steps `step` to `step + block`; latents (n, h, w,
        c) float32: after them.
        """
        count, end = len(states), step + states.shape[1]
        if not np.isfinite(latents).all():
            self._reject(row, end, ~np.isfinite(latents), latents)
        if step == 0:
            self.digests += [begin_digest(*self.parameters.rows[row + i]) for i in range(count)]
        block = step // self.layout.block
        chunks: list[tuple[ArraySpec, Index, np.ndarray]] = [
            (self.specs["xs"], (row + i, block), states[i : i + 1]) for i in range(count)
        ]
        if end == self.layout.steps:
            chunks += [(self.specs["latents"], (row + i,), latents[i : i + 1]) for i in range(count)]
        write_chunks(self.path, chunks)
        for i in range(count):
            self.digests[row + i].update(np.ascontiguousarray(states[i]).data)
            if end == self.layout.steps:
                self.digests[row + i].update(np.ascontiguousarray(latents[i]).data)
        written = [digest.hexdigest() for digest in self.digests]
        write_checkpoint(self.checkpoint_path, Checkpoint(self.job.fingerprint, row, end, written, latents))

    def publish(self) -> Seal:
        """Seal, verify and publish the complete shard. Raises as `SealedJob.publish_group`."""
        numbers = [str(number) for number, _ in self.parameters.rows]
        trajectories = dict(zip(numbers, (digest.hexdigest() for digest in self.digests), strict=True))
        digests = {"arrays": digest_arrays(self.small), "trajectories": trajectories}
        return self.job.publish_group(digests, self._verify)

    def _verify(self, group: Path) -> None:
        """Raise UserError for the first fault of the sealed group."""
        for fault in find_faults(group, self.job.parameters, self.job.inputs):
            raise UserError(fault)

    def _reject(self, row: int, step: int, bad: np.ndarray, latents: np.ndarray) -> None:
        """Raise UserError for the first value of `latents` marked in `bad`."""
        index = tuple(np.argwhere(bad)[0])
        number, prompt_index = self.parameters.rows[row + index[0]]
        value = latents[index]
        reason = "is too large for float16" if np.isfinite(value) else "is not finite"
        first = min(p for _, p in self.parameters.rows)
        raise UserError(
            f"shard {self.parameters.shard}, trajectory {number}, step {step}: the latent {value:g} {reason}"
            f" (prompt {prompt_index}: {self.parameters.prompts[prompt_index - first]!r});"
            " check the model's weights, or change cfg_scale or the prompt"
        )

    def _hash_row(self, row: int, steps: int) -> "hashlib._Hash":
        """Digest of a row's first `steps` states and, if those are all, its final latents."""
        digest = begin_digest(*self.parameters.rows[row])
        digest.update(self.layout.read_states(self.path, row, steps).data)
        if steps == self.layout.steps:
            digest.update(self.layout.read_latents(self.path, row).data)
        return digest
