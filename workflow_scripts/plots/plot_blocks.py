"""Plot the block quantization results as PNG and SVG: distributions, convergence, errors by block and by layer."""

import argparse
from pathlib import Path

from taqmlx.planning.stage_groups import AdaRound
from taqmlx.plots import blocks, distributions
from taqmlx.plots.style import save_figure
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.block_report import read_report
from taqmlx.store.parameters import read_block_parameters
from taqmlx.store.sensitivity_file import read_sensitivity, read_sensitivity_arrays


def main(arguments: argparse.Namespace) -> None:
    sensitivities = [read_sensitivity(path) for path in arguments.sensitivity]
    reports = [read_report(path) for path in arguments.reports]
    described = {name: about for found in sensitivities for name, about in found["distributions"].items()}
    arrays = {
        name: array
        for path, found in zip(arguments.sensitivity, sensitivities, strict=True)
        for name, array in read_sensitivity_arrays(path, found).items()
    }
    warm_ups = {block: end for block, end in map(find_warm_up, arguments.params) if end is not None}
    figures = {
        "distributions": distributions.draw_distributions(described, arrays),
        "adaround_convergence": blocks.draw_convergence(reports, warm_ups),
        "block_errors": blocks.draw_block_errors(reports),
        "layer_errors": blocks.draw_layer_errors(sensitivities),
    }
    for name, figure in figures.items():
        save_figure(figure, arguments.out / name)
    log.info(f"{len(figures)} figures in {arguments.out}")


def find_warm_up(path: Path) -> tuple[str, float | None]:
    """Name of a block and the iteration at which its warm-up ends; None for engines without warm-up."""
    job = read_block_parameters(path, path.stem)
    return job.block, job.adaround_warm_up * job.adaround_iterations if isinstance(job, AdaRound) else None


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__, "out")
    parser.add_argument("--sensitivity", type=Path, nargs="+", required=True, help="sensitivity files of the blocks")
    parser.add_argument("--reports", type=Path, nargs="+", required=True, help="optimisation reports of the blocks")
    parser.add_argument("--params", type=Path, nargs="*", default=[], help="parameter files of the blocks")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
