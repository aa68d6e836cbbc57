"""Collect the measured numbers of finished results, and of `make bench`, in docs/numbers.json.

Groups whose files are among the results are replaced; all others stay as they are. fill_numbers writes them into the
documents.
"""

import argparse
from pathlib import Path

from taqmlx.planning import configuration
from taqmlx.report.numbers import SOURCES, collect
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_plain_json, write_plain_json


def main(arguments: argparse.Namespace) -> None:
    paths = {name: arguments.results / source.name for name, source in SOURCES.items()}
    if arguments.bench:
        paths["bench"] = arguments.bench
    there = {name: path for name, path in paths.items() if name in arguments.only and path.exists()}
    if not there:
        raise UserError(f"{arguments.results} has no result to collect; run frontier, evaluation or ablation first")
    size = arguments.size or configuration.complete({}, configuration.load_schema())["bits_per_weight"]
    about = {"configuration": arguments.configuration, "machine": arguments.machine}
    found = collect(there, size, {key: value for key, value in about.items() if value})
    known = read_plain_json(arguments.out) if arguments.out.exists() else {}
    write_plain_json(arguments.out, known | found)
    log.info(
        f"{arguments.out}: {', '.join(found)}; kept: {', '.join(sorted(known.keys() - found.keys())) or 'nothing'}"
    )


def build_arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, "results", "out")
    parser.add_argument("--bench", type=Path, help="result of make bench, if not bench.json in --results")
    parser.add_argument("--only", nargs="+", choices=list(SOURCES), default=list(SOURCES), help="groups to replace")
    parser.add_argument("--size", type=float, help="configured bits per weight (default: that of the schema)")
    parser.add_argument("--configuration", default="config/config.yaml", help="configuration of the results")
    parser.add_argument("--machine", help="the machine in words, as `2 cores of an AMD EPYC`")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
