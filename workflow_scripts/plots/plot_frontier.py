"""Plot quality against size for our models and for `nn.quantize`, as PNG and SVG."""

import argparse

from taqmlx.plots.frontier import draw_frontier
from taqmlx.plots.style import save_figure
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.frontier_file import read_frontier


def main(arguments: argparse.Namespace) -> None:
    save_figure(draw_frontier(read_frontier(arguments.frontier), arguments.size), arguments.out / "frontier")
    log.info(f"1 figure in {arguments.out}")


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__, "frontier", "out")
    parser.add_argument("--size", type=float, help="configured bits per weight, to mark the bits saved")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
