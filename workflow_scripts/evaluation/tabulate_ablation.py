"""Write the ablation as a table, beside the paper's results."""

import argparse
from typing import Any

from taqmlx.planning.ablation import PAPER_FID, VARIANTS
from taqmlx.planning.variants import OTHER_SEEDS
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.files import read_json
from taqmlx.store.vouching import write_text

HEAD = """\
FID of {n:,} images ({steps} steps) to those of full precision and to real images, from features of the embedded
model's classifier, with 95 % intervals; signal-to-noise ratio of the final latents, median over images. The last column
is the FID to ImageNet that the TaQ-DiT paper reports for DiT-XL/2 at 256 x 256. Model, data and features differ, so
only the order of the rows is comparable.

| | FID to full precision | FID to real | latent SNR, dB | prompt accuracy | FID in the paper |
|---|---:|---:|---:|---:|---:|
"""


def main(arguments: argparse.Namespace) -> None:
    scores = read_json(arguments.scores, format="evaluation")
    rows = [tabulate_row(scores["variants"][name], PAPER_FID.get(name)) for name in VARIANTS]
    rows.append(tabulate_row(scores["noise_floor"][OTHER_SEEDS], None))
    text = HEAD.format(**scores) + "\n".join(rows) + "\n"
    write_text(arguments.out, text)
    log.info(f"{len(rows)} rows: {arguments.out}")


def tabulate_row(found: dict[str, Any], paper: float | None) -> str:
    """One row of the table; the distance of full precision to itself is left blank."""
    paired, accuracy = found.get("paired"), found["prompt_accuracy"]
    cells = [
        found["title"],
        say_distance(found["fid_to_full_precision"], 3) if paired else "",
        say_distance(found["fid_to_real"], 2),
        f"{paired['latent_snr_db']['median']:.1f}" if paired else "",
        f"{accuracy['all']['value']:.1%}" if accuracy else "",
        "" if paper is None else f"{paper:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def say_distance(measured: dict[str, Any], digits: int) -> str:
    """A distance with its interval."""
    low, high = measured["interval_95"]
    return f"{measured['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    run(main, build_parser(__doc__, "scores", "out"))
