"""Kills a worker of collect_shard at many moments: python -m tests.support.kill_worker FOLDER MOMENTS.

FOLDER is prepared for collect_shard.
"""

import os
import signal
import sys
from pathlib import Path

from tests.support.kills import compare_killed
from tools.small_results.shards import run_entry
from workflow_scripts.trajectories import collect_shard  # noqa: F401


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
    out, scratch = folder / "trajectories.zarr" / "000", folder / "scratch" / "000"
    compare_killed(lambda: run_entry(folder, "collect_shard"), folder, out, scratch, moments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
