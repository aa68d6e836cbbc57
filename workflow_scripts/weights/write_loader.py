"""Write `load_quantized.py` beside the packed weights, a loader that needs only MLX and DiffusionKit."""

import argparse
from pathlib import Path

from taqmlx import models
from taqmlx.runtime.entry import build_parser, run
from taqmlx.store.checksum_files import write_text


def main(arguments: argparse.Namespace) -> None:
    write_text(arguments.out, Path(models.__file__).with_name("load_quantized.py").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main, build_parser(__doc__, "out"))
