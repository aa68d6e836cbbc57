"""What every entry shares: arguments, a log, a progress line, and errors a person can read.

An entry is started as `python -m workflow_scripts.<folder>.<command> --params FILE ...`, by Snakemake, a scheduler
or by hand.
Its standard error carries the progress and the error line; the log file, if named, gets those and the traceback.
"""

import argparse
import errno
import logging
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from taqmlx.planning import plan
from taqmlx.store.errors import UserError
from taqmlx.store.places import Place, open_place

LONGEST_ERROR = 1000  # characters
log = logging.getLogger("taqmlx")

# What to do about what the system refuses, by its error number.
CURES = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "make its file system writable, or choose another results_dir",
    errno.EACCES: "give yourself the right to it and to its folder",
    errno.EPERM: "give yourself the right to it and to its folder",
    errno.EIO: "check its disk",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}

_PACKAGE = "time-aware-mmdit-quantization"
# How to get what the package's own dependencies leave out, by the name of the module.
INSTALL = {
    "diffusionkit": "pip install --no-deps diffusionkit==0.5.2",
    **dict.fromkeys(("torch", "torchmetrics"), f"pip install '{_PACKAGE}[torch]'"),
    **dict.fromkeys(("fsspec", "s3fs"), f"pip install '{_PACKAGE}[object-storage]'"),
}


def build_parser(description: str, *paths: str) -> argparse.ArgumentParser:
    """A parser with one required path option per name in `paths`, and an optional `--log FILE`."""
    parser = argparse.ArgumentParser(description=description)
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--log", type=Path, help="also write messages and tracebacks to this file")
    return parser


def add_place(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Give `parser` the option `--name` for a store or a part of one: a folder, or a URL that fsspec understands."""

    def read(text: str) -> Place:
        try:
            return open_place(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    parser.add_argument(f"--{name}", type=read, **({"required": True} | options))


class LogFile(logging.FileHandler):
    """A log file that is given up, with one line, once it cannot be written: a log must not cost the work."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name that `logging` calls)
        """Give the file up if the exception under way says that it cannot be written."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger().removeHandler(self)
        with suppress(OSError):
            self.close()
        warn_of_log(Path(self.baseFilename), error)


def warn_of_log(path: Path, error: OSError) -> None:
    """Say that there is no log, and why."""
    log.warning(f"{path} cannot be written ({error.strerror or error}); going on without this log")


def open_log(path: Path | None) -> None:
    """Send messages to standard error and, if `path` is given and can be written, to that file too."""
    logging.basicConfig(format="%(message)s", handlers=[logging.StreamHandler()], force=True)
    log.setLevel(logging.INFO)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        file = LogFile(path, encoding="utf-8")  # it appends, as the traceback does
    except OSError as error:
        warn_of_log(path, error)
        return
    file.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(file)


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
    """One or two readable lines on standard error; the traceback goes to the log file, if there is one."""
    text, is_logged = describe_failure(error), log_path is not None and append_traceback(log_path)
    if is_logged:
        text += f" (traceback in {log_path})"
    elif log_path is None and not isinstance(error, UserError | OSError):
        text += " (--log FILE keeps the traceback)"
    log.error(f"error: {show_plainly(text)}")


def describe_failure(error: Exception) -> str:
    """What is wrong, where, and what to do about it, as far as that is foreseen."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (text := describe_missing(error)):
        return text
    if not isinstance(error, OSError) or error.errno not in CURES:
        return f"{type(error).__name__}: {error}"
    place = error.filename2 or error.filename or "a file"
    return f"{place} cannot be written or read ({error.strerror}); {CURES[error.errno]} and run again"


def describe_missing(error: ModuleNotFoundError) -> str:
    """Which package is not installed and how to get it; empty if it is one that should be there."""
    name = (error.name or "").partition(".")[0]
    return f"{name} is not installed; run: {INSTALL[name]}" if name in INSTALL else ""


def append_traceback(path: Path) -> bool:
    """Add the exception under way to the log; whether that worked."""
    try:
        with path.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    except OSError:
        return False
    return True


def show_plainly(text: str) -> str:
    """At most two lines of `text`, its middle left out if it is long, with what a terminal might obey written out."""
    if len(text) > LONGEST_ERROR:
        text = f"{text[: LONGEST_ERROR // 2]} ... {text[-LONGEST_ERROR // 2 :]}"
    first, _, rest = text.partition("\n")
    lines = [first, rest.replace("\n", " ")] if rest else [first]
    return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)


def choose_part(shard: str, count: int) -> int:
    """The number of the part that `--shard` names, of so many. Raises UserError if there is no such part."""
    parts = plan.list_parts(count)
    if shard not in parts:
        raise UserError(f"--shard {shard}: no such part; choose one from {parts[0]} to {parts[-1]}")
    return parts.index(shard)


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
