"""Kills a worker at a file operation, finishes with another, and compares with an undisturbed run.

python -m tests.support.kill_worker FOLDER MOMENTS; FOLDER is prepared for collect_shard, the moments are evenly spread.
Each worker is a fork of this process, which has imported everything and used nothing, so that it starts at once.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tools.small_results.shards import hash_tree, run_entry
from workflow_scripts.trajectories import collect_shard  # noqa: F401

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


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


def watch_operations(limit: int) -> list[int]:
    """Count this process's file operations from now, and kill it before the one after `limit`. Returns the count."""
    count = [0]

    def watch(event, _):
        if event in OPERATIONS:
            count[0] += 1
            if count[0] > limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return count


def collect(folder: Path, limit: int = sys.maxsize) -> None:
    """Run the worker; leave the number of its file operations behind."""
    count = watch_operations(limit)
    run_entry(folder, "collect_shard")
    total = count[0]
    (folder / "operations").write_text(str(total))


def collect_until(folder: Path, checkpoints: int) -> None:
    """Run the worker, and kill this process after the given number of checkpoints."""
    count = [0]

    def watch(event, arguments):
        if event == "os.rename" and Path(arguments[1]).name == "checkpoint":
            count[0] += 1
            if count[0] > checkpoints:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run_entry(folder, "collect_shard")


def main(folder: Path, moments: int) -> None:
    out = folder / "trajectories.zarr" / "000"
    assert fork(lambda: collect(folder)) == 0
    total, reference = int((folder / "operations").read_text()), hash_tree(out)
    for moment in range(moments):
        shutil.rmtree(out)
        limit = (total - 1) * (moment + 1) // moments
        assert fork(lambda limit=limit: collect(folder, limit)) == -signal.SIGKILL
        # The second worker may be killed too, some way on; the third one finishes.
        assert fork(lambda: collect(folder, total // 3)) in (0, -signal.SIGKILL)
        assert fork(lambda: collect(folder)) == 0
        assert hash_tree(out) == reference, f"killed at file operation {limit} of {total}"
        assert not (folder / "scratch" / "000").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
