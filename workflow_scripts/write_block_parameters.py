"""Write the parameters of one block's job, its layers' rules among them."""

import argparse
import json

from workflow_scripts import block_plan, plan
from workflow_scripts.entry import build_parser, run
from workflow_scripts.store.files import write_json


def main(arguments: argparse.Namespace) -> None:
    parameters = plan.select_parameters("optimise_block", json.loads(arguments.values), [])
    write_json(arguments.out, block_plan.select_block(parameters, arguments.block))


if __name__ == "__main__":
    parser = build_parser(__doc__, "out")
    parser.add_argument("--block", required=True, help="the block's name, such as mm_00")
    parser.add_argument("--values", required=True, help="the configuration values of optimise_block, as JSON")
    run(main, parser)
