"""Print which layers a quantization config quantizes, by kind of layer, as a Markdown table."""

import argparse
from pathlib import Path

from taqmlx.planning.plan import list_layers
from taqmlx.report.kinds import tabulate_kinds
from taqmlx.report.tables import format_markdown
from taqmlx.runtime.entry import build_parser, run
from taqmlx.store.quant_config import read_quant_config


def main(arguments: argparse.Namespace) -> None:
    config = read_quant_config(arguments.config)
    print(format_markdown(tabulate_kinds(list_layers(config.content["model"]), config)))


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__)
    parser.add_argument("config", type=Path, help="quant_config.json, with the files it refers to beside it")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
