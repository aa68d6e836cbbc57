"""Write the parameters of one stage: its configuration `--values`, and the prompts if the stage reads them."""

import argparse
import json
from pathlib import Path

from taqmlx.planning import plan
from taqmlx.planning.prompts import read_prompts
from taqmlx.runtime.entry import build_parser, run
from taqmlx.store.files import write_json


def main(arguments: argparse.Namespace) -> None:
    prompts = read_prompts(arguments.prompts) if arguments.prompts else []
    write_json(arguments.out, plan.select_parameters(arguments.stage, json.loads(arguments.values), prompts))


if __name__ == "__main__":
    parser = build_parser(__doc__, "out")
    parser.add_argument("--stage", required=True, choices=list(plan.STAGES))
    parser.add_argument("--values", required=True, help="configuration values of the stage, as JSON")
    parser.add_argument("--prompts", type=Path, nargs="?", help="prompt file, for stages that read prompts")
    run(main, parser)
