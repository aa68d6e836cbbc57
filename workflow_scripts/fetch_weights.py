"""Get the model's files, download those the Hub's cache lacks, check them all, and write their digests."""

import argparse

from workflow_scripts import plan
from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.glimpses import glimpse
from workflow_scripts.models.releases import RELEASES
from workflow_scripts.models.sd3 import choose_source, fetch_files, list_files
from workflow_scripts.models.weight_files import locate_files
from workflow_scripts.store.files import read_json, write_json
from workflow_scripts.user_files import find_place


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params, stage="fetch_weights")
    name, weights_from = parameters["model"], find_place(plan.WEIGHTS_FROM)
    digests = fetch_files(name, weights_from, parameters["use_t5"])
    places = locate_files(choose_source(RELEASES[name], weights_from), list_files(RELEASES[name], parameters["use_t5"]))
    glimpses = {file.local_name: glimpse(place) for file, place in places.items()}
    write_json(arguments.out, {"model": name, "sha256": digests, "glimpses": glimpses})
    log.info(f"{len(digests)} files of {parameters['model']} are here and whole: {arguments.out}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "out"))
