"""Plot the channel ranges of layer inputs before and after their folds, with the grids, as PNG and SVG."""

import argparse

from taqmlx.planning.fold_rules import list_site_rules
from taqmlx.planning.stages import FoldModel
from taqmlx.plots.fold_spread import draw_fold_spread
from taqmlx.plots.folds import draw_fold_ranges
from taqmlx.plots.style import save_figure
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.folds_file import read_folds
from taqmlx.store.parameters import read_parameters


def main(arguments: argparse.Namespace) -> None:
    parameters, folds = read_parameters(FoldModel, arguments.params), read_folds(arguments.folds).folds
    rules = list_site_rules(parameters.model, parameters.activations)
    figures = {"fold_ranges": draw_fold_ranges(folds, rules), "fold_spread": draw_fold_spread(folds, rules)}
    for name, figure in figures.items():
        save_figure(figure, arguments.out / name)
    log.info(f"{len(figures)} figures in {arguments.out}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "folds", "out"))
