"""Plot the quality of the variants, along the trajectory and against model size, as PNG and SVG."""

import argparse

from taqmlx.planning.variants import OTHER_SEEDS
from taqmlx.plots.evaluation import draw_error_growth, draw_size_quality
from taqmlx.plots.style import save_figure
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json


def main(arguments: argparse.Namespace) -> None:
    scores = read_json(arguments.scores, format="evaluation")
    if not any(about.get("size") for about in scores["variants"].values()):
        raise UserError(f"{arguments.scores} does not say how large the variants are; run score again")
    figures = {
        "error_growth": draw_error_growth(scores["variants"]),
        "size_quality": draw_size_quality(scores["variants"], scores.get("noise_floor", {}).get(OTHER_SEEDS, {})),
    }
    for name, figure in figures.items():
        save_figure(figure, arguments.out / f"{arguments.prefix}{name}")
    log.info(f"{len(figures)} figures in {arguments.out}")


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__, "scores", "out")
    parser.add_argument("--prefix", default="", help="prefix of the figure names")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
