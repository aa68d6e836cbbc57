"""Clocks that go backwards or leap: single results, or all of them, are of tomorrow or of last year."""

import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence

from tests.faults.outcomes import Outcome
from tests.faults.relocations import CAMPAIGN
from tests.faults.working_copy import MAIN, WorkingCopy, compare_runs

DAY = 86_400.0  # seconds
DELETED = ("conditioning.safetensors", "trajectories.zarr/005", "calibration.zarr", "adaround/mm_01.safetensors")
PLACES = (
    "params/collect_shard.json",
    "conditioning.safetensors",
    "trajectories.zarr/003",
    "calibration.zarr",
    "block_inputs.zarr/00",
    "adaround/mm_02.safetensors",
    "quantized/model.safetensors",
)


def date_files(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """One result is of tomorrow, or of last year: nothing is lost, and what is made again is the same."""
    for place in PLACES:
        for days in (1, -365):
            date_tree(copy, place, time.time() + days * DAY)
            words = "of tomorrow" if days > 0 else "of last year"
            yield judge(f"a file is {words}", copy, place, wanted, MAIN)


def date_tree(copy: WorkingCopy, place: str, when: float) -> None:
    """Give a result, and all files in it if it is a folder, another time."""
    path = copy.results / place
    for each in [path, *path.rglob("*")]:
        os.utime(each, (when, when))


def turn_back(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """The clock goes back a day before the next run, for what was deleted, and is right again in the one after.

    Seen from the new clock all results are of tomorrow, and so they are dated here. Snakemake itself refuses, in words,
    an output that is older than its input.
    """
    for place in DELETED:
        path = copy.results / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        targets = (f"results/{place}", *MAIN)
        shift_tree(copy, DAY)
        early = copy.run(*targets)
        shift_tree(copy, -DAY)
        is_clear = early.returncode == 0 or ("clock skew" in early.stdout and "Traceback" not in early.stdout)
        note = "" if is_clear else f"ended with {early.returncode}: {early.stdout[-300:]}"
        yield judge("the clock goes back a day", copy, place, wanted, targets, note)


def shift_tree(copy: WorkingCopy, seconds: float) -> None:
    """Make all results so much younger."""
    for path in copy.results.rglob("*"):
        when = path.stat().st_mtime + seconds
        os.utime(path, (when, when))


def judge(
    fault: str, copy: WorkingCopy, place: str, wanted: dict[str, str], targets: Sequence[str], note: str = ""
) -> Outcome:
    """Whether a run ends and leaves the same bytes, if nothing was wrong before."""
    done = copy.run(*targets)
    note = note or (f"ended with {done.returncode}: {done.stdout[-300:]}" if done.returncode else "")
    note = note or compare_runs(copy.read_tree(), wanted)
    return Outcome(CAMPAIGN, fault, place, not note, note)
