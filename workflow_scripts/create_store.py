"""Create the root of the trajectory store, a Zarr group whose members are the shards."""

import argparse

from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.store.files import write_json

ROOT = {"attributes": {}, "node_type": "group", "zarr_format": 3}


def main(arguments: argparse.Namespace) -> None:
    write_json(arguments.out, ROOT)
    log.info(f"created {arguments.out.parent}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "out"))
