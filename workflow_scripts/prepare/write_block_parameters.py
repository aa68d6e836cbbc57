"""Write the parameters of one block's job, including the rules of its layers."""

import argparse
import json

from taqmlx.planning import block_plan, plan
from taqmlx.runtime.entry import build_parser, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json


def main(arguments: argparse.Namespace) -> None:
    values = json.loads(arguments.values)
    blocks = plan.list_block_names(values["model"])
    if arguments.block not in blocks:
        raise UserError(f"--block {arguments.block}: no such block; choose one from {blocks[0]} to {blocks[-1]}")
    parameters = plan.select_parameters("optimise_block", values, [])
    write_json(arguments.out, block_plan.select_block(parameters, arguments.block))


if __name__ == "__main__":
    parser = build_parser(__doc__, "out")
    parser.add_argument("--block", required=True, help="block name, such as mm_00")
    parser.add_argument("--values", required=True, help="configuration values of optimise_block, as JSON")
    run(main, parser)
