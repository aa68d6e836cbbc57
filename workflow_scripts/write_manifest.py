"""Write the manifest of a dataset from the seals of its trajectories: every image, its prompt and its seed.

It can be run at any time, with however many shards finished. It counts the trajectories of the store; with `--saved`
the files in a folder of the original layout.
"""

import argparse
from pathlib import Path

from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.store.files import read_json, write_json
from workflow_scripts.store.manifest import build_manifest, read_seals

FILES = {"images": "images/*.png", "latents": "latents/*.npy"}


def main(arguments: argparse.Namespace) -> None:
    stage = read_json(arguments.params)
    saved = count_saved(arguments.saved) if arguments.saved else None
    manifest = build_manifest(stage, read_seals(arguments.trajectories, stage), saved)
    write_json(arguments.out, manifest)
    log.info(f"{manifest['n_completed']} of {manifest['num_images']} images in {arguments.out}")


def count_saved(folder: Path) -> dict[str, int]:
    """How many files of each kind a folder of the original layout has."""
    return {kind: len(list(folder.glob(pattern))) for kind, pattern in FILES.items()}


def build_arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, "params", "trajectories", "out")
    parser.add_argument("--saved", type=Path, help="count the files in this folder instead of the trajectories")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
