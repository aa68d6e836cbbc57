"""Get the model's files, download those the Hub's cache lacks, check them all, and write their digests."""

import argparse

from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.models.sd3 import fetch_files
from workflow_scripts.store.files import read_json, write_json


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params)
    digests = fetch_files(parameters["weights_from"], parameters["use_t5"])
    write_json(arguments.out, {"model": parameters["model"], "sha256": digests})
    log.info(f"{len(digests)} files of {parameters['model']} are here and whole: {arguments.out}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "out"))
