"""Compare the outliers of models' layer inputs with those of Stable Diffusion 3 Medium: a JSON file and a figure.

Give the activation statistics of each model. Those of Stable Diffusion 3 Medium were measured by others; the file with
them says by whom.
"""

import argparse
from pathlib import Path

import taqmlx.report
from taqmlx.numerics.ranges import measure_outliers
from taqmlx.plots.outliers import draw_outliers
from taqmlx.plots.style import save_figure
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_plain_json, write_json
from taqmlx.store.statistics_file import read_statistics, read_statistics_arrays

REFERENCE = Path(taqmlx.report.__file__).with_name("sd3_inputs.json")
Measured = dict[str, dict[str, float]]


def main(arguments: argparse.Namespace) -> None:
    models = {"sd3-medium": read_plain_json(REFERENCE)["inputs"]}
    for path in arguments.statistics:
        name, measured = measure_model(path)
        if name in models:
            raise UserError(f"--statistics: {path} is of the model {name}, as another file is; name it once")
        models[name] = measured
    write_json(arguments.out, {"format": "inputs-compared", "version": 1, "models": models})
    save_figure(draw_outliers(models), arguments.out.with_suffix(""))
    log.info(f"layer inputs of {', '.join(models)}: {arguments.out}")


def measure_model(path: Path) -> tuple[str, Measured]:
    """Name of the model, and outliers of each of its inputs, from its activation statistics at `path`."""
    statistics = read_statistics(path)
    arrays = read_statistics_arrays(path, statistics)
    return statistics["model"], {
        name: measure_outliers(
            described["per_step"], *(arrays[f"{name}/{field}"] for field in ("minimum", "maximum", "mean"))
        )
        for name, described in statistics["inputs"].items()
    }


def build_arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, "out")
    parser.add_argument(
        "--statistics", type=Path, nargs="+", required=True, help="activations/statistics.json of each model"
    )
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
