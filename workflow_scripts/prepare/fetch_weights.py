"""Download the model's files that are missing from the Hub's cache, verify all files, and write their digests."""

import argparse

from taqmlx.models.loaders import describe_unread
from taqmlx.models.releases import RELEASES
from taqmlx.models.sd3 import fetch_files
from taqmlx.models.weight_files import verify_file
from taqmlx.planning import plan
from taqmlx.planning.local_paths import find_local_path
from taqmlx.planning.stages import FetchWeights
from taqmlx.planning.weight_identity import hash_ends
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.files import write_json
from taqmlx.store.parameters import read_parameters


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(FetchWeights, arguments.params)
    name = parameters.model
    files = fetch_files(name, find_local_path(plan.WEIGHTS_FROM), parameters.use_t5)
    if unread := describe_unread(RELEASES[name], files):
        log.info(unread)
    digests = {name: digest for located in files.values() for name, digest in verify_file(located).items()}
    parts = {name: path for located in files.values() for name, path in located.list_files().items()}
    glimpses = {name: hash_ends(path) for name, path in parts.items()}
    write_json(arguments.out, {"model": name, "sha256": digests, "glimpses": glimpses})
    log.info(f"{len(digests)} files of {name} are present and verified: {arguments.out}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "out"))
