"""Create the root of the trajectory store, a Zarr group with one member per shard: in `--out`, and in `--store`."""

import argparse

from taqmlx.runtime.entry import add_location, build_parser, log, run
from taqmlx.store.files import encode_json, write_plain_json
from taqmlx.store.locations import RemotePath
from taqmlx.store.trajectories import ROOT


def main(arguments: argparse.Namespace) -> None:
    if isinstance(arguments.store, RemotePath):
        (arguments.store / "zarr.json").create(encode_json(ROOT).encode())
    write_plain_json(arguments.out, ROOT)
    log.info(f"created {arguments.store or arguments.out.parent}")


if __name__ == "__main__":
    parser = build_parser(__doc__, "out")
    add_location(parser, "store", required=False, help="location of the shards, if not beside --out")
    run(main, parser)
