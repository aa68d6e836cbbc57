"""Clocks that are set back or jump: single results, or all of them, are dated in the future or last year."""

import os
import random
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence

from tools.faults.outcomes import Outcome
from tools.faults.relocations import CAMPAIGN
from tools.faults.working_copy import MAIN, WorkingCopy, compare_runs, compare_trees

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
    """One result is dated in the future or last year: nothing is lost, and remade files are equal."""
    for place in PLACES:
        for days in (1, -365):
            date_tree(copy, place, time.time() + days * DAY)
            if days < 0:
                yield judge("a file dated last year", copy, place, wanted, MAIN)
            else:
                yield judge("a file dated in the future", copy, place, wanted, MAIN, follow_cure(copy, place))


def follow_cure(copy: WorkingCopy, place: str) -> str:
    """Follow the cure of a run that finds a result dated in the future; the failure, or an empty string."""
    before = copy.read_tree()
    rejected = copy.run(*MAIN)
    lines = [line for line in rejected.stdout.splitlines() if line.startswith(f"error: results/{place} is dated ")]
    if rejected.returncode == 0 or len(lines) != 1:
        return f"not rejected: {rejected.stdout[-300:]}"
    done = copy.finish(shlex.split(lines[0].partition("in the future: ")[2]))
    return done.stdout or compare_trees(copy.read_tree(), before)


def date_tree(copy: WorkingCopy, place: str, when: float) -> None:
    """Give a result, and all files in it if it is a folder, another time."""
    path = copy.results / place
    for each in [path, *path.rglob("*")]:
        os.utime(each, (when, when))


def turn_back(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """The clock goes back a day before the next run, for what was deleted, and is right again in the one after.

    To the new clock all results are dated in the future, as they are here; the run stops before any job.
    """
    for place in DELETED:
        path = copy.results / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        targets = (f"results/{place}", *MAIN)
        shift_tree(copy, DAY)
        early = copy.run(*targets)
        shift_tree(copy, -DAY)
        is_refused = early.returncode and "correct the clock" in early.stdout
        note = "" if is_refused else f"ended with {early.returncode}: {early.stdout[-300:]}"
        yield judge("the clock is set back a day", copy, place, wanted, targets, note)


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
