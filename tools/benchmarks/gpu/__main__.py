"""Measure on a machine with a GPU: the tests, the main job, every benchmark, and Stable Diffusion 3 Medium's sizes.

Parts that are in FOLDER/record.json are not run again. The numbers go to docs/numbers.json and to the budget's costs;
those of a CPU to copies of these files in FOLDER.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from tools.benchmarks.gpu.device import choose_device, find_gpu, name_machine
from tools.benchmarks.gpu.jobs import JOBS, Numbers
from tools.benchmarks.gpu.publish import MODEL, write_costs, write_numbers
from tools.benchmarks.table import call

NUMBERS, COSTS = Path("docs/numbers.json"), Path("taqmlx/budgeting/costs.json")
SMALL = "small"


def main(arguments: argparse.Namespace) -> None:
    check_device(arguments)
    path = arguments.folder / "record.json"
    record = read_json(path) if path.exists() else {}
    about = {"machine": name_machine(), "size": arguments.size}
    if record and record["about"] != about:
        raise UserError(f"{path} was measured on {record['about']}, and this is {about}; choose another --folder")
    record["about"] = about
    for name, measure in list_parts(arguments.device, arguments.size).items():
        if name not in record:
            log.info(f"{name} ...")
            record[name] = measure()
            write_json(path, record)
        log.info(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in record[name].items())}")
    numbers, costs = choose_files(arguments)
    parts = {name: values for name, values in record.items() if name != "about"}
    write_numbers(numbers, parts, about["machine"])
    write_costs(costs, parts, about["machine"])
    log.info(f"{numbers} and {costs} have the numbers of {about['machine']}")
    if bad := parts["tests"]["failures"] + parts["tests"]["errors"]:
        raise UserError(f"{bad:.0f} tests failed; run: python -m pytest -m 'not whole'")


def check_device(arguments: argparse.Namespace) -> None:
    """Select the device. Raises UserError without a GPU, or for the full size on a CPU."""
    if arguments.device == "gpu" and not find_gpu():
        raise UserError(
            "MLX has no GPU here; install its CUDA package (make venv CUDA=13), or try --device cpu --size small"
        )
    if arguments.device == "cpu" and arguments.size != SMALL:
        raise UserError(f"--size {arguments.size}: takes days on a CPU; add --size {SMALL}")
    choose_device(arguments.device)


def list_parts(device: str, size: str) -> dict[str, Callable[[], Numbers]]:
    """What measures each part, each in processes of its own, the shortest first."""
    parts = {name: partial(measure_module, name, device, size) for name in ("steps", "learning")}
    return parts | {name: partial(job, size) for name, job in JOBS.items()}


def measure_module(name: str, device: str, size: str) -> Numbers:
    """The object that a module of this folder prints."""
    found: Numbers = json.loads(call("-m", f"tools.benchmarks.gpu.{name}", device, size).stdout.splitlines()[-1])
    return found


def choose_files(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The files to write: the repository's, or copies of them."""
    if arguments.device == "gpu" and arguments.size == MODEL:
        return NUMBERS, COSTS
    return tuple(Path(shutil.copy(path, arguments.folder)) for path in (NUMBERS, COSTS))


if __name__ == "__main__":
    parser = build_parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("results/bench_gpu"), help="default: %(default)s")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="default: %(default)s")
    parser.add_argument("--size", choices=(MODEL, SMALL), default=MODEL, help="default: %(default)s")
    run(main, parser)
