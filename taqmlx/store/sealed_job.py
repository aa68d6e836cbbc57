"""Life cycle of resumable work: lock, resume from a checkpoint, seal, publish.

    with job.hold():
        if not job.is_finished(holds_group):
            state = job.resume(read, "starting over") or start()
            ...  # work, with a checkpoint now and then
            job.publish_group(digests, verify)

Unfinished work lies in the scratch folder alone; a result appears whole, under its final name. A job killed at any
moment is run again: it resumes from its last checkpoint, or finds its result and only removes the scratch folder.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from taqmlx.planning import plan
from taqmlx.planning.documents import Digests, Inputs
from taqmlx.store.errors import UserError
from taqmlx.store.learning_state import Numbers, read_learning, write_learning
from taqmlx.store.locations import Location
from taqmlx.store.lock import hold_lock
from taqmlx.store.publishing import publish_group
from taqmlx.store.seal import Seal, fingerprint_origin, make_seal, write_group_seal

log = logging.getLogger("taqmlx")

State = TypeVar("State")
# holds(out, parameters, inputs): True if `out` has the finished result of these, False if it has none; raises UserError
# for anything else, such as `seal.holds_group` and `block_file.holds_block`.
Holds = Callable[[Any, plan.Parameters, Inputs], bool]


@dataclass(frozen=True)
class SealedJob:
    """The work on the result `out`, done in the folder `scratch` with `parameters` on `inputs` (digests)."""

    out: Location
    scratch: Path
    parameters: plan.Parameters
    inputs: Inputs

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of parameters and inputs, which every checkpoint of the job has."""
        return fingerprint_origin(self.parameters, self.inputs)

    @property
    def file(self) -> Path:
        """The result of a job that writes a local file."""
        if not isinstance(self.out, Path):
            raise TypeError(f"{self.out} is not a local file")
        return self.out

    @property
    def group(self) -> Path:
        """The unfinished Zarr group of a job that publishes one."""
        return self.scratch / "group"

    @property
    def learning(self) -> Path:
        """The checkpoint of a job that learns."""
        return self.scratch / "learning.safetensors"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the job's lock, waiting for another holder; at the end without an error, remove the scratch folder."""
        with hold_lock(self.scratch.with_name(f"{self.scratch.name}.lock"), log.info):
            yield
            self.clear()

    def is_finished(self, holds: Holds, *, replace: bool = False) -> bool:
        """True if `out` has the result of this job, which is logged.

        Raises UserError if it has another one or a damaged one, unless `replace`: that is logged, and False.
        """
        try:
            finished = holds(self.out, self.parameters, self.inputs)
        except UserError as error:
            if not replace:
                raise
            log_problem(error, "it is replaced")
            return False
        if finished:
            log.info(f"{self.out} is already finished")
        return finished

    def resume(self, read: Callable[[], State | None], otherwise: str) -> State | None:
        """The state that `read` finds in the scratch folder; None at the start of the job.

        A checkpoint that is damaged or of other parameters or inputs, for which `read` raises UserError, is logged with
        the consequence `otherwise`, and None.
        """
        if not self.scratch.exists():
            return None
        try:
            return read()
        except UserError as error:
            log_problem(error, otherwise)
            return None

    def resume_learning(self, otherwise: str) -> tuple[Numbers, dict[str, np.ndarray]] | None:
        """Numbers and arrays of the last `save_learning`; None and logged as by `resume`."""
        return self.resume(lambda: read_learning(self.learning, self.fingerprint), otherwise)

    def save_learning(self, numbers: Numbers, arrays: dict[str, np.ndarray]) -> None:
        """Replace the checkpoint of learning; it is on disk on return."""
        write_learning(self.learning, self.fingerprint, numbers, arrays)

    def clear(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def seal(self, digests: Digests) -> Seal:
        """Seal of the job's work, covering `digests`."""
        return make_seal(self.parameters, self.inputs, digests)

    def publish_group(self, digests: Digests, verify: Callable[[Path], None]) -> Seal:
        """Seal the complete group, read it back with `verify` and move it to `out`.

        `verify` raises UserError, naming the file, for data that differ from those written; so does a taken `out`.
        """
        for leftover in self.group.rglob("*.partial*"):
            leftover.unlink()
        seal = self.seal(digests)
        write_group_seal(self.group, seal)
        verify(self.group)
        publish_group(self.group, self.out)
        return seal


def log_problem(error: UserError, consequence: str) -> None:
    """Log the problem named by `error`, without its remedy, and its consequence."""
    log.info(f"{str(error).partition(';')[0]}; {consequence}")
