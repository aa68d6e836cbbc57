"""Kills a worker of capture_blocks at a file operation, finishes with another, and compares with an undisturbed run.

python -m tests.support.kill_capture FOLDER MOMENTS; moments are spread evenly.
FOLDER has params.json and calibration.zarr.
"""

import shutil
import signal
import sys
from argparse import Namespace
from pathlib import Path

from tests.support.kill_worker import fork, watch_operations
from tools.small_results.shards import hash_tree
from workflow_scripts.blocks import capture_blocks


def list_arguments(folder: Path, shard: str = "00") -> Namespace:
    """The arguments of the entry for a part."""
    return Namespace(
        params=folder / "params.json",
        calibration=folder / "calibration.zarr",
        shard=shard,
        scratch=folder / "scratch" / shard,
        out=folder / "block_inputs.zarr" / shard,
    )


def capture(folder: Path, limit: int = sys.maxsize) -> None:
    """Run the worker, killed before the file operation after `limit`; leave the number of its operations behind."""
    count = watch_operations(limit)
    capture_blocks.main(list_arguments(folder))
    total = count[0]
    (folder / "operations").write_text(str(total))


def main(folder: Path, moments: int) -> None:
    out, scratch = list_arguments(folder).out, list_arguments(folder).scratch
    assert fork(lambda: capture(folder)) == 0
    total, reference = int((folder / "operations").read_text()), hash_tree(out)
    for moment in range(moments):
        shutil.rmtree(out)
        limit = (total - 1) * (moment + 1) // moments
        assert fork(lambda limit=limit: capture(folder, limit)) == -signal.SIGKILL
        assert fork(lambda: capture(folder)) == 0
        assert hash_tree(out) == reference, f"killed at file operation {limit} of {total}"
        assert not scratch.exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
