"""Write the workflow's files to a new folder, to run Snakemake there without a clone.

The files are the Snakefile, the rules, the configurations, the profiles and the report's captions. In the folder, run:
`snakemake --cores 1 quant_config --configfile config/quick.yaml`.
"""

import argparse
import shutil
from pathlib import Path

from taqmlx.planning.workflow_files import FOLDER, PARTS
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError


def main(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        copy = shutil.copytree if (FOLDER / part).is_dir() else shutil.copy2
        copy(FOLDER / part, folder / part)
    log.info(f"created {folder}; in there: snakemake --cores 1 quant_config --configfile config/quick.yaml")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "out"))
