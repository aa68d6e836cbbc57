"""Measure the size of a variant's weights and the bits of its layer inputs, as JSON."""

import argparse
from pathlib import Path

from taqmlx.mmdit.variant_sizes import measure_variant
from taqmlx.models.catalogue import find_model
from taqmlx.planning.evaluation_stages import MeasureSize
from taqmlx.planning.variants import ALL
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.files import write_json
from taqmlx.store.parameters import read_parameters


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(MeasureSize, arguments.params)
    transformer = find_model(parameters.model, parameters).load_transformer()
    measured = measure_variant(transformer, ALL[arguments.variant].source, arguments.source)
    write_json(arguments.out, {"format": "sizes", "variant": arguments.variant} | measured)
    log.info(f"{arguments.variant}: {measured['bits_per_weight']:.2f} bits per weight: {arguments.out}")


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__, "params", "out")
    parser.add_argument("--variant", required=True, choices=list(ALL))
    parser.add_argument("--source", type=Path, nargs="*", default=[], help="files with the variant's layers")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
