"""Kills a worker of capture_blocks at many moments: python -m tests.support.kill_capture FOLDER MOMENTS.

FOLDER has params.json and calibration.zarr.
"""

import sys
from argparse import Namespace
from pathlib import Path

from tests.support.kills import compare_killed
from workflow_scripts.blocks import capture_blocks


def list_arguments(folder: Path, shard: str = "00") -> Namespace:
    """The arguments of the entry for a part."""
    return Namespace(
        params=folder / "params.json",
        calibration=folder / "calibration.zarr",
        shard=shard,
        blocks=None,
        scratch=folder / "scratch" / shard,
        out=folder / "block_inputs.zarr" / shard,
    )


def main(folder: Path, moments: int) -> None:
    arguments = list_arguments(folder)
    compare_killed(lambda: capture_blocks.main(arguments), folder, arguments.out, arguments.scratch, moments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
