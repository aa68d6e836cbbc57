"""Complete the folder of the packed weights for publication: model card, pictures and report beside them."""

import argparse
from pathlib import Path

from taqmlx.planning.layers import list_linears
from taqmlx.planning.plan import MODEL_BLOCKS
from taqmlx.report import runs
from taqmlx.report.kinds import tabulate_kinds
from taqmlx.report.model_card import render_card
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.checksum_files import checksummed, write_text
from taqmlx.store.files import hash_file, read_json, write_atomically
from taqmlx.store.frontier_file import read_frontier
from taqmlx.store.packed_checkpoint import read_packed_config
from taqmlx.store.quant_config import read_quant_config


def main(arguments: argparse.Namespace) -> None:
    config, folder = runs.read_config(arguments.config), arguments.out.parent
    fid, frontier = read_json(arguments.fid, format="evaluation", version=2), read_frontier(arguments.frontier)
    packed, quantization = read_packed_config(folder), read_quant_config(arguments.quant_config)
    kinds = tabulate_kinds(list_linears(*MODEL_BLOCKS[config["model"]]), quantization)
    for source, name in ((arguments.pictures, "pictures.png"), (arguments.report, "quantization_report.html")):
        copy(source, folder / name)
    names = (packed["model"]["file"], "config.json", arguments.loader.name)
    digests = {name: hash_file(folder / name) for name in names}
    write_text(arguments.out, render_card(config, fid, frontier, packed, kinds, digests))
    log.info(f"{folder} is ready to be published")


def copy(source: Path, place: Path) -> None:
    """Copy a file atomically, with a checksum file."""
    content = source.read_bytes()
    with checksummed(place):
        write_atomically(place, lambda partial: partial.write_bytes(content))


if __name__ == "__main__":
    parser = build_parser(__doc__, "fid", "frontier", "quant-config", "loader", "pictures", "report", "out")
    parser.add_argument("--config", required=True, help="configuration as JSON")
    run(main, parser)
