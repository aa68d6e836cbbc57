"""A small sealed job: it counts, stores every count and publishes them as a group.

python -m tests.support.counting_job FOLDER MOMENTS kills it before many of its changes of files.
"""

import sys
from pathlib import Path

import numpy as np

from taqmlx.store.block_inputs import digest_values
from taqmlx.store.errors import UserError
from taqmlx.store.seal import holds_group
from taqmlx.store.sealed_job import SealedJob
from taqmlx.store.zarr_arrays import ArraySpec, create_group, read_chunk, write_chunks
from tests.support.kills import compare_killed

STEPS, CHECKPOINT_EVERY = 5, 2
COUNTS = ArraySpec("counts", (STEPS, 3), (1, 3), "float32")
PARAMETERS, INPUTS = {"stage": "count", "steps": STEPS}, {"model": {"a.safetensors": "00"}}


def make_job(folder: Path, **changes) -> SealedJob:
    """The job in `folder`, with `changes` to its parameters."""
    return SealedJob(folder / "made" / "counts", folder / "scratch" / "counts", PARAMETERS | changes, INPUTS)


def start(job: SealedJob) -> int:
    """The first step; or the one to resume at."""
    saved = job.resume_learning("counting starts over")
    if saved is None:
        job.clear()
        create_group(job.group, [COUNTS])
        return 0
    return saved[0]["step"]


def count(job: SealedJob, stop_at: int = STEPS) -> list[int]:
    """Do the job from its lock to its end; as `work`."""
    with job.hold():
        return work(job, stop_at)


def work(job: SealedJob, stop_at: int = STEPS) -> list[int]:
    """Count from the last checkpoint, interrupted before the step `stop_at`, and publish; the steps that were done."""
    done: list[int] = []
    if job.is_finished(holds_group):
        return done
    for step in range(start(job), STEPS):
        if step == stop_at:
            raise KeyboardInterrupt
        write_chunks(job.group, [(COUNTS, (step,), np.full((1, 3), step, np.float32))])
        done.append(step)
        if (step + 1) % CHECKPOINT_EVERY == 0:
            job.save_learning({"step": step + 1}, {"count": np.full(1, step, np.float32)})
    publish(job)
    return done


def publish(job: SealedJob) -> None:
    """Publish the counts, whose digests are those of what was to be written."""
    wanted = {COUNTS.name_file((step,)): digest_values(np.full((1, 3), step, np.float32)) for step in range(STEPS)}

    def verify(group: Path) -> None:
        for step in range(STEPS):
            name = COUNTS.name_file((step,))
            if digest_values(read_chunk(group, COUNTS, (step,))) != wanted[name]:
                raise UserError(f"{group / name} is not what was written")

    job.publish_group(wanted, verify)


def main(folder: Path, moments: int) -> None:
    job = make_job(folder)
    compare_killed(lambda: count(job), folder, job.out, job.scratch, moments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
