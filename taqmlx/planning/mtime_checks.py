"""Detect results whose mtime alone would make Snakemake rerun or delete them. Standard library only.

Snakemake compares mtimes where a file is too large for a content check. It deletes the outputs of a job before the job
runs, and also afterwards if they are older than an input, as with an input dated in the future. A clock that went back,
or files copied without their times, would then cost the most expensive results although their seals are valid.
"""

import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

COMPARED = 1_000_000  # bytes; Snakemake compares smaller files by content (--max-checksum-file-size)
MARK = ".snakemake_timestamp"
SLACK = 60.0  # seconds; tolerated clock difference between machines that share a disk


def find_date(path: Path) -> float:
    """Mtime of a result as Snakemake sees it, in seconds since the epoch: for a folder that of its timestamp file."""
    mark = path / MARK
    return (mark if mark.exists() else path).stat().st_mtime


def find_future(results: Path, now: float) -> Iterator[str]:
    """Yield a line, with the fix, for the first result dated later than `now` (seconds since the epoch)."""
    for path in (path for pattern in ("*", "*/*") for path in sorted(results.glob(pattern))):
        if path.exists() and find_date(path) > now + SLACK:
            old = shlex.quote(str(results / "params" / "encode_prompts.json"))
            cure = f"find {shlex.quote(str(results))} -newermt now -exec touch -r {old} {{}} +"
            yield (
                f"{path} is dated {show_date(find_date(path))}, but it is now {show_date(now)}: correct the clock, or"
                f" reset the dates in the future: {cure}"
            )
            return


def show_date(seconds: float) -> str:
    """A time in seconds since the epoch, formatted in local time."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def find_outdated_shards(results: Path, smallest: int = COMPARED) -> Iterator[str]:
    """Yield a line, with the fix, for the first finished shard that is older than the prompt encodings."""
    encodings, parameters = results / "conditioning.safetensors", results / "params" / "encode_prompts.json"
    if not encodings.is_file() or encodings.stat().st_size <= smallest:
        return
    made = encodings.stat().st_mtime
    for group in sorted((results / "trajectories.zarr").glob("[0-9]*")):
        if find_date(group) < made:
            yield (
                f"{encodings} is newer than {group}, which was made from it: the clock went back, or files were"
                " copied without their times; make them again with --config overwrite=true, or keep them:"
                f" touch -r {shlex.quote(str(parameters))} {shlex.quote(str(encodings))}"
            )
            return
