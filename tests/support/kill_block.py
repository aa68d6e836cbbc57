"""Kills a worker of optimise_block at a file operation, finishes with another, and compares with an undisturbed run.

python -m tests.support.kill_block FOLDER MOMENTS; moments are spread evenly.
FOLDER has params.json and block_inputs.zarr.
"""

import shutil
import signal
import sys
from argparse import Namespace
from pathlib import Path

from tests.support.kill_worker import fork, watch_operations
from tools.small_results.shards import hash_tree
from workflow_scripts.blocks import optimise_block


def list_arguments(folder: Path, block: str = "mm_00", **changes) -> Namespace:
    """The arguments of the entry for a block."""
    arguments = {
        "params": folder / "params.json",
        "inputs": sorted((folder / "block_inputs.zarr").iterdir()),
        "before": [],
        "mixed": None,
        "scratch": folder / "scratch" / block,
        "out": folder / "adaround" / f"{block}.safetensors",
        "replace": False,
    }
    return Namespace(**arguments | changes)


def quantize(folder: Path, limit: int = sys.maxsize) -> None:
    """Run the worker, killed before the file operation after `limit`; leave the number of its operations behind."""
    count = watch_operations(limit)
    optimise_block.main(list_arguments(folder))
    total = count[0]
    (folder / "operations").write_text(str(total))


def main(folder: Path, moments: int) -> None:
    arguments = list_arguments(folder)
    assert fork(lambda: quantize(folder)) == 0
    total, made = int((folder / "operations").read_text()), arguments.out.parent
    reference = hash_tree(made)
    for moment in range(moments):
        shutil.rmtree(made)
        limit = (total - 1) * (moment + 1) // moments
        assert fork(lambda limit=limit: quantize(folder, limit)) == -signal.SIGKILL
        assert fork(lambda: quantize(folder)) == 0
        found = {name: digest for name, digest in hash_tree(made).items() if not name.startswith(".")}
        assert found == reference, f"killed at file operation {limit} of {total}"
        assert not arguments.scratch.exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
