"""Kill a job before it changes a file, let another finish, and compare with an undisturbed run; at many moments.

Each job is a fork of this process, which has imported everything and used nothing, so that it starts at once.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tools.faults.kill_at import kill_after
from tools.small_results.shards import hash_tree


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child; its exit status, negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"worker: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_changes(work: Callable[[], None], place: Path) -> int:
    """Run `work` undisturbed; the number of its changes of files, which it leaves in the file `place`."""

    def run() -> None:
        count = kill_after(sys.maxsize)
        work()
        total = count[0]
        place.write_text(str(total))

    assert fork(run) == 0
    return int(place.read_text())


def kill_at(work: Callable[[], None], limit: int) -> int:
    """Run `work`, killed before the change of a file after the first `limit`; its exit status."""

    def run() -> None:
        kill_after(limit)
        work()

    return fork(run)


def compare_killed(work: Callable[[], None], folder: Path, made: Path, scratch: Path, moments: int) -> None:
    """Kill `work`, which makes the folder `made`, at evenly spread moments, at most `moments`, and let others finish.

    Each time they have to leave the bytes of an undisturbed run and nothing in `scratch`.
    """
    total, reference = count_changes(work, folder / "changes"), hash_tree(made)
    moments = min(moments, total - 1)
    for moment in range(moments):
        shutil.rmtree(made)
        limit = (total - 1) * (moment + 1) // moments
        assert kill_at(work, limit) == -signal.SIGKILL
        # The second one may be killed too, some way on; the third one finishes.
        assert kill_at(work, total // 3) in (0, -signal.SIGKILL)
        assert fork(work) == 0
        assert hash_tree(made) == reference, f"killed after change {limit} of {total}"
        assert not scratch.exists()
