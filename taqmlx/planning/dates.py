"""Finished work that Snakemake would make again, or delete, for a date alone. Standard library only.

Snakemake goes by dates where a file is too large for it to compare what is in it, and deletes a job's outputs before
the job; and after it, if they are older than an input, as they are when that is of tomorrow. So a clock that went back,
or files copied without their times, would cost the most expensive of all results, though their seals say that they are
what they should be.
"""

import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

COMPARED = 1_000_000  # bytes: up to here Snakemake compares what is in a file (--max-checksum-file-size)
MARK = ".snakemake_timestamp"
SLACK = 60.0  # seconds that the clocks of machines which share a disk may differ


def find_date(path: Path) -> float:
    """When a result was made, in seconds since the epoch, as Snakemake takes it: a folder's mark says so."""
    mark = path / MARK
    return (mark if mark.exists() else path).stat().st_mtime


def find_future(results: Path, now: float) -> Iterator[str]:
    """A line, with the cure, for the first result that is younger than `now`, seconds since the epoch."""
    for path in (path for pattern in ("*", "*/*") for path in sorted(results.glob(pattern))):
        if path.exists() and find_date(path) > now + SLACK:
            old = shlex.quote(str(results / "params" / "encode_prompts.json"))
            cure = f"find {shlex.quote(str(results))} -newermt now -exec touch -r {old} {{}} +"
            yield (
                f"{path} is of {show_date(find_date(path))}, and now is {show_date(now)}: set the clock right, or date"
                f" what is of the future anew: {cure}"
            )
            return


def show_date(seconds: float) -> str:
    """A time for people, where they are."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def find_outdated_shards(results: Path, smallest: int = COMPARED) -> Iterator[str]:
    """A line, with the cure, for the first finished shard in `results` that is older than the prompts' encodings."""
    encodings, parameters = results / "conditioning.safetensors", results / "params" / "encode_prompts.json"
    if not encodings.is_file() or encodings.stat().st_size <= smallest:
        return
    made = encodings.stat().st_mtime
    for group in sorted((results / "trajectories.zarr").glob("[0-9]*")):
        if find_date(group) < made:
            yield (
                f"{encodings} is younger than {group}, which was made from it: the clock went back, or files were"
                " copied without their times; make them again with --config overwrite=true, or keep them:"
                f" touch -r {shlex.quote(str(parameters))} {shlex.quote(str(encodings))}"
            )
            return
