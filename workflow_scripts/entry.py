"""What every entry shares: arguments, a log, a progress line, and errors a person can read.

An entry is started as `python -m workflow_scripts.<rule> --params FILE ...`, by Snakemake, by a scheduler or by hand.
Its standard error carries the progress and the error line; the log file, if named, gets those and the traceback.
"""

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from workflow_scripts.store.errors import UserError

log = logging.getLogger("workflow_scripts")


def build_parser(description: str, *paths: str) -> argparse.ArgumentParser:
    """A parser with one required path option per name in `paths`, and an optional `--log FILE`."""
    parser = argparse.ArgumentParser(description=description)
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--log", type=Path, help="also write messages and tracebacks to this file")
    return parser


def open_log(path: Path | None) -> None:
    """Send messages to standard error and, if `path` is given, to that file too."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    logging.basicConfig(format="%(message)s", handlers=handlers, force=True)
    log.setLevel(logging.INFO)


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parse the command line, run `main`, and end the process: 0 done, 1 failed, 130 interrupted."""
    arguments = parser.parse_args()
    open_log(arguments.log)
    try:
        main(arguments)
    except KeyboardInterrupt:
        log.error("interrupted; the next run goes on from the last checkpoint")
        sys.exit(130)
    except Exception as error:
        report_failure(error, arguments.log)
        sys.exit(1)


def report_failure(error: Exception, log_path: Path | None) -> None:
    """One readable line on standard error; the traceback goes to the log file."""
    if not isinstance(error, UserError) and log_path is None:
        traceback.print_exc()
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    log.error(f"error: {text}" + (f" (traceback in {log_path})" if log_path else ""))
    if log_path:
        with log_path.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)


class Progress:
    """A line with the share done, the rate and the time left, at most every `interval` seconds."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0, interval: float = 2.0):
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.first = self.done = done
        self.start = self.shown = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done and show the line when it is due, and at the end."""
        self.done += count
        now = time.monotonic()
        if now - self.shown < self.interval and self.done < self.total:
            return
        self.shown = now
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        log.info(
            f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s, {format_duration(left)} left"
            + (f", {note}" if note else "")
        )


def format_duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
