"""Kills a worker of optimise_block at many moments: python -m tests.support.kill_block FOLDER MOMENTS.

FOLDER has params.json and block_inputs.zarr.
"""

import sys
from argparse import Namespace
from pathlib import Path

from tests.support.kills import compare_killed
from workflow_scripts.blocks import optimise_block


def list_arguments(folder: Path, block: str = "mm_00", **changes) -> Namespace:
    """The arguments of the entry for a block."""
    arguments = {
        "params": folder / "params.json",
        "inputs": sorted((folder / "block_inputs.zarr").iterdir()),
        "before": [],
        "mixed": None,
        "folds": None,
        "scratch": folder / "scratch" / block,
        "out": folder / "adaround" / f"{block}.safetensors",
        "replace": False,
    }
    return Namespace(**arguments | changes)


def main(folder: Path, moments: int) -> None:
    arguments = list_arguments(folder)
    compare_killed(lambda: optimise_block.main(arguments), folder, arguments.out.parent, arguments.scratch, moments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
