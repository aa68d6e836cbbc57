"""Verify a results folder: every file by checksum or seal, and the consistency between files. Prints a table.

Some steps, chosen by `--seed`, are recomputed with the model. Results that do not exist yet are no fault. Exits with 1
if a check fails; all faults are listed below the table, and so are files without a checksum, such as logs.
"""

import argparse
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from taqmlx.checks import exports, files, products, trajectories
from taqmlx.checks.results import Report, Results
from taqmlx.runtime.entry import add_location, build_parser, log, run
from taqmlx.store.errors import UnreachableError, UserError

CHECKS: dict[str, Callable[[Results], Report | None]] = {
    "counts": trajectories.check_counts,
    "shapes and types": trajectories.check_arrays,
    "checksums": trajectories.check_seals,
    "finite values": trajectories.check_values,
    "sigmas": trajectories.check_levels,
    "prompts and seeds": trajectories.check_identities,
    "first states": trajectories.check_starts,
    "replay": trajectories.replay_steps,
    "manifest": products.check_manifest,
    "calibration set": products.check_calibration,
    "flat calibration file": exports.check_flat,
    "statistics": products.check_statistics,
    "packed weights": products.check_weights,
    "weights for mflux": products.check_mflux,
    "quantization config": products.check_quant_config,
    "exported samples": exports.check_samples,
    "exported latents": exports.check_latents,
    "exported pictures": exports.check_images,
    "exported manifest": products.check_export_manifest,
    "every file": files.check_files,
}
OK, FAIL, ABSENT = "ok", "FAIL", "not made"


class Line(NamedTuple):
    """A row of the table, the faults behind it, and notes on what the check does not cover."""

    check: str
    result: str
    detail: str
    faults: list[str]
    notes: Sequence[str] = ()


def main(arguments: argparse.Namespace) -> None:
    store = arguments.trajectories or arguments.results / "trajectories.zarr"
    if not (store / "zarr.json").is_file():
        raise UserError(f"{store} is missing; name a folder of results with --results")
    results = Results(arguments.results, store, arguments.replay, arguments.seed)
    lines = [run_check(name, check, results) for name, check in CHECKS.items()]
    table = format_table(lines)
    print(table)
    for line in lines:
        for note in line.notes:
            log.info(note)
        for fault in line.faults:
            log.error(f"{line.check}: {fault}")
    if failed := [line.check for line in lines if line.result == FAIL]:
        raise UserError(f"{arguments.results}: {len(failed)} of {len(lines)} checks fail: {', '.join(failed)}")
    log.info(f"{arguments.results}: all existing results pass")


def run_check(name: str, check: Callable[[Results], Report | None], results: Results) -> Line:
    """The result of one check; an unreadable file fails this check only."""
    try:
        report = check(results)
    except UnreachableError:
        raise
    except UserError as error:
        report = Report("", [str(error)])
    except Exception as error:
        log.debug(traceback.format_exc())
        report = Report("", [f"cannot be checked: {type(error).__name__}: {error}"])
    if report is None:
        return Line(name, ABSENT, "", [])
    if report.faults:
        count = len(report.faults)
        more = f" (and {count - 1} more)" if count > 1 else ""
        return Line(name, FAIL, report.faults[0] + more, report.faults, report.notes)
    return Line(name, OK, report.detail, [], report.notes)


def format_table(lines: list[Line]) -> str:
    """A Markdown table of check, result and detail."""
    rows = [("check", "result", "detail"), *(line[:3] for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    shown = [f"| {check:<{widths[0]}} | {result:<{widths[1]}} | {detail} |" for check, result, detail in rows]
    shown.insert(1, f"|{'-' * (widths[0] + 2)}|{'-' * (widths[1] + 2)}|---|")
    return "\n".join(shown)


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="results folder")
    add_location(parser, "trajectories", required=False, help="trajectory store, if outside that folder; may be a URL")
    parser.add_argument(
        "--replay",
        type=int,
        default=8,
        help="number of steps and images to recompute, a step of every shard first (8)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed that chooses them (0)")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
