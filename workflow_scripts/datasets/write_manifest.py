"""Write the manifest of a dataset from the seals of its trajectories: every image with its prompt and seed.

It can run at any time, with any number of finished shards. It counts the trajectories in the store, or with `--saved`
the files in a folder of the original layout.
"""

import argparse
from pathlib import Path

from taqmlx.planning.stages import CollectShard
from taqmlx.runtime.entry import add_location, build_parser, log, run
from taqmlx.store.files import hash_file, write_json
from taqmlx.store.manifest import SAVED, Manifest, build_manifest, count_saved, read_seals
from taqmlx.store.parameters import read_parameters
from taqmlx.store.seal import Seal


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(CollectShard, arguments.params)
    seals, saved = read_seals(arguments.trajectories, parameters), arguments.saved
    manifest = describe_exports(saved, parameters, seals) if saved else build_manifest(parameters, seals)
    write_json(arguments.out, manifest)
    log.info(f"{manifest['n_completed']} of {manifest['num_images']} images in {arguments.out}")


def describe_exports(folder: Path, parameters: CollectShard, seals: dict[str, Seal]) -> Manifest:
    """Manifest of the files in a folder of the original layout, with the sha256 of each image."""
    digests = {path.name: hash_file(path) for path in folder.glob(SAVED["images"])}
    return build_manifest(parameters, seals, count_saved(folder)) | {"sha256": digests}


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__, "params", "out")
    add_location(parser, "trajectories")
    parser.add_argument("--saved", type=Path, help="count the files in this folder instead of the trajectories")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
