"""Write the ablation as a table, beside the paper's results."""

import argparse

from taqmlx.planning.ablation import PAPER_FID, VARIANTS
from taqmlx.planning.variants import OTHER_SEEDS
from taqmlx.report.study_tables import tabulate_ablation
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.checksum_files import write_text
from taqmlx.store.files import read_json

HEAD = """\
FID of {n:,} images ({steps} steps) to those of full precision and to real images, from features of the embedded
model's classifier, with 95 % intervals; signal-to-noise ratio of the final latents, median over images. The last column
is the FID to ImageNet that the TaQ-DiT paper reports for DiT-XL/2 at 256 x 256. Model, data and features differ, so
only the order of the rows is comparable.

"""


def main(arguments: argparse.Namespace) -> None:
    scores = read_json(arguments.scores, format="evaluation")
    rows = [(scores["variants"][name], PAPER_FID.get(name)) for name in VARIANTS]
    rows.append((scores["noise_floor"][OTHER_SEEDS], None))
    text = HEAD.format(**scores) + tabulate_ablation(rows) + "\n"
    write_text(arguments.out, text)
    log.info(f"{len(rows)} rows: {arguments.out}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "scores", "out"))
