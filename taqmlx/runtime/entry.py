"""Entry point shared by all commands: arguments, log, progress line, and readable errors.

A command runs as `python -m workflow_scripts.<folder>.<command> --params FILE ...`, started by Snakemake, a scheduler
or by hand. Progress and the error line go to standard error; the log file, if given, gets them and the traceback.
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
from taqmlx.runtime.versions import find_version
from taqmlx.store.errors import UserError
from taqmlx.store.locations import Location, open_location

LONGEST_ERROR = 1000  # characters
log = logging.getLogger("taqmlx")

# Fix for an operating system error, by error number.
CURES = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "make its file system writable, or choose another results_dir",
    errno.EACCES: "change the permissions of it and of its folder",
    errno.EPERM: "change the permissions of it and of its folder",
    errno.EIO: "check its disk",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}

PACKAGE = "time-aware-mmdit-quantization"
# Installation command of optional dependencies, by module name.
INSTALL = {
    "diffusionkit": "pip install --no-deps diffusionkit==0.5.2",
    **dict.fromkeys(("torch", "torchmetrics"), f"pip install '{PACKAGE}[torch]'"),
    **dict.fromkeys(("fsspec", "s3fs"), f"pip install '{PACKAGE}[object-storage]'"),
}


class ShortHelp(argparse.HelpFormatter):
    """Help that fits a screen: one line of usage with what is required, and one line for most options."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, max_help_position=26, **options)

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        either = {id(action) for group in groups if group.required for action in group._group_actions}
        needed = [a for a in actions if a.required or not a.option_strings or id(a) in either]
        return f"{super()._format_usage(usage, needed, groups, prefix).rstrip()} [OPTION ...]\n\n"


def build_parser(description: str, *paths: str) -> argparse.ArgumentParser:
    """A parser with one required path option per name in `paths`, and an optional `--log FILE`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=ShortHelp)
    version = f"taqmlx {find_version(PACKAGE)}"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="PATH")
    parser.add_argument("--log", type=Path, metavar="FILE", help="also write messages and tracebacks to this file")
    return parser


def add_folds(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the option `--folds`, of commands that load the model whose weights are quantized; returns the parser."""
    parser.add_argument(
        "--folds", type=Path, nargs="?", help="folds.safetensors; none if the configuration has no folds"
    )
    return parser


def add_location(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Add the option `--name` for a store or one of its groups: a folder, or a URL that fsspec supports."""

    def read(text: str) -> Location:
        try:
            return open_location(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    parser.add_argument(f"--{name}", type=read, **({"required": True} | options))


class LogFile(logging.FileHandler):
    """A log file that is closed with one warning once it cannot be written: a log failure must not stop the work."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name that `logging` calls)
        """Close the file if the current exception is an OSError."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger().removeHandler(self)
        with suppress(OSError):
            self.close()
        warn_of_log(Path(self.baseFilename), error)


def warn_of_log(path: Path, error: OSError) -> None:
    """Log that the log file cannot be written, and the reason."""
    log.warning(f"{path} cannot be written ({error.strerror or error}); continuing without this log")


def open_log(path: Path | None) -> None:
    """Log to standard error and, if `path` is given and writable, to that file too."""
    logging.basicConfig(format="%(message)s", handlers=[logging.StreamHandler()], force=True)
    log.setLevel(logging.INFO)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        file = LogFile(path, encoding="utf-8")  # append mode, since the traceback is appended too
    except OSError as error:
        warn_of_log(path, error)
        return
    file.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(file)


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parse the command line, run `main`, and exit: 0 done, 1 failed, 130 interrupted."""
    arguments = parser.parse_args()
    open_log(arguments.log)
    try:
        main(arguments)
    except KeyboardInterrupt:
        log.error("interrupted; the next run resumes from the last checkpoint")
        sys.exit(130)
    except Exception as error:
        report_failure(error, arguments.log)
        sys.exit(1)


def report_failure(error: Exception, log_path: Path | None) -> None:
    """Log the error in one or two readable lines and append the traceback to the log file, if there is one."""
    text, is_logged = describe_failure(error), log_path is not None and append_traceback(log_path)
    if is_logged:
        text += f" (traceback in {log_path})"
    elif log_path is None and not isinstance(error, UserError | OSError):
        text += " (--log FILE keeps the traceback)"
    log.error(f"error: {show_plainly(text)}")


def describe_failure(error: Exception) -> str:
    """The error in words, with location and fix for known kinds of errors."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (text := describe_missing(error)):
        return text
    if not isinstance(error, OSError) or error.errno not in CURES:
        return f"{type(error).__name__}: {error}"
    place = error.filename2 or error.filename or "a file"
    return f"{place} cannot be written or read ({error.strerror}); {CURES[error.errno]} and run again"


def describe_missing(error: ModuleNotFoundError) -> str:
    """The missing package and how to install it; empty unless it is an optional dependency."""
    name = (error.name or "").partition(".")[0]
    return f"{name} is not installed; run: {INSTALL[name]}" if name in INSTALL else ""


def append_traceback(path: Path) -> bool:
    """Append the current exception to the log file. Returns False if that fails."""
    try:
        with path.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    except OSError:
        return False
    return True


def show_plainly(text: str) -> str:
    """`text` in at most two lines, shortened in the middle if long, with control characters escaped."""
    if len(text) > LONGEST_ERROR:
        text = f"{text[: LONGEST_ERROR // 2]} ... {text[-LONGEST_ERROR // 2 :]}"
    first, _, rest = text.partition("\n")
    lines = [first, rest.replace("\n", " ")] if rest else [first]
    return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)


def find_shard_index(shard: str, count: int) -> int:
    """Index of the shard named by `--shard`, out of `count`. Raises UserError if there is no such shard."""
    parts = plan.list_stage_shards(count)
    if shard not in parts:
        raise UserError(f"--shard {shard}: no such shard; choose one from {parts[0]} to {parts[-1]}")
    return parts.index(shard)


class Progress:
    """Progress line with count, rate and remaining time, at most every `interval` seconds."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0, interval: float = 2.0):
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.first = self.done = done
        self.start = self.shown = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Add `count` finished units; log the line when it is due, and at the end."""
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
