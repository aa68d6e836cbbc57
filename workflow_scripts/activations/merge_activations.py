"""Merge the observations of all shards into one set of layer input statistics."""

import argparse
from pathlib import Path

from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.files import write_json
from taqmlx.store.statistics_merging import describe_statistics, merge_shards
from taqmlx.store.tensors import write_tensors


def main(arguments: argparse.Namespace) -> None:
    seals, inputs, arrays = merge_shards(arguments.shards)
    arrays_path = arguments.out.with_suffix(".safetensors")
    write_tensors(arrays_path, arrays)
    write_json(arguments.out, describe_statistics(seals, inputs, arrays_path))
    log.info(f"statistics of {len(inputs)} inputs from {len(seals)} shards in {arguments.out}")


if __name__ == "__main__":
    parser = build_parser(__doc__, "out")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help=".safetensors files of the shards")
    run(main, parser)
