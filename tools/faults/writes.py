"""Every write of every stage fails once, in turn.

A small preloaded library lets the n-th change to the results folder fail as the system would: the disk is full, or
becomes full during a write, the file system is read-only, or a permission is missing. One line must say so, no
incomplete file may have its final name, and the same command must then end with the bytes of an undisturbed run. One
job of each rule makes some 3,000 changes of 730 kinds; one of each kind comes first.
Other faults are the system's own: full and read-only file systems, another user, a limit on the size of files.
"""

import errno
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from tools.faults.outcomes import Outcome
from tools.faults.undisturbed import (
    CORES,
    Job,
    Run,
    copy_results,
    delete,
    find_differences,
    list_results,
    run_command,
    run_quick,
)

SOURCE = Path(__file__).with_name("failing_writes.c")


# Which file, what is wrong, what to do.
CLEAR = r"/.+(cannot be written or read \(.+\)|are free); (make|give|raise|check) .+"


class Obstacle(NamedTuple):
    """What stands in the way: the error's number, and whether it goes away (`failing_writes.c`)."""

    error: int
    how: str


OBSTACLES = {
    "disk full": Obstacle(errno.ENOSPC, "on"),
    "disk full for a moment": Obstacle(errno.ENOSPC, "once"),
    "disk full in the middle of a write": Obstacle(errno.ENOSPC, "half"),
    "read-only file system": Obstacle(errno.EROFS, "on"),
    "no permission": Obstacle(errno.EACCES, "once"),
}


class Change(NamedTuple):
    """The `number`-th change a job makes: what it does, and to which file, by its name below the results."""

    job: Job
    number: int
    what: str
    name: str


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Let `count` of all changes fail, each once: some of each kind of each job, then others by chance."""
    library = build_library(folder)
    if library is None:
        print("writes: skipped, since there is no C compiler (cc) to build the library that lets them fail")
        return
    run = run_quick(folder / "undisturbed")
    rng = random.Random(seed)
    jobs = {job.rule: job for job in rng.sample(run.jobs, len(run.jobs))}  # one of each rule
    changes = choose_changes(run, list(jobs.values()), library, folder, rng)
    yield from fail_changes(run, library, changes[:count], folder)


def build_library(folder: Path) -> Path | None:
    """The library, or None without a compiler."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler, library = shutil.which("cc"), folder / "failing_writes.so"
    if compiler is None:
        return None
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def fail_changes(run: Run, library: Path, changes: list[Change], folder: Path) -> Iterator[Outcome]:
    """Let each of `changes` fail, by all obstacles in turn."""
    names = list(OBSTACLES)

    def attempt(index: int, change: Change) -> Outcome:
        name, copy = names[index % len(names)], folder / f"copy {index}"
        note = fail_change(run, library, change, OBSTACLES[name], copy)
        delete(copy)
        return Outcome("writes", name, change.job.rule, not note, note and f"{change.what} {change.name}: {note}")

    with ThreadPoolExecutor(CORES) as pool:
        yield from pool.map(attempt, range(len(changes)), changes)


def choose_changes(run: Run, jobs: list[Job], library: Path, folder: Path, rng: random.Random) -> list[Change]:
    """Every change of the jobs in an order by chance, except those first that are of a kind of their own."""
    with ThreadPoolExecutor(CORES) as pool:
        changes = [change for found in pool.map(partial(list_changes, run, library, folder), jobs) for change in found]
    rng.shuffle(changes)
    seen: set[tuple] = set()
    first, others = [], []
    for change in changes:
        kind = (change.job.rule, change.what, re.sub(r"[0-9a-f]{8}|\d+", "", change.name))
        (others if kind in seen else first).append(change)
        seen.add(kind)
    return first + others


def list_changes(run: Run, library: Path, folder: Path, job: Job) -> list[Change]:
    """All changes that a job makes, in order."""
    results, record = folder / f"counted {job.rule}", folder / f"changes {job.rule}"
    delete(results), delete(record)
    copy_results(run.results, results, job.written)
    done = run_command(job.fill_in(results), prepare(library, results, 0, Obstacle(0, "once"), record))
    if done.returncode:
        raise RuntimeError(f"{job.rule} fails undisturbed:\n{done.stderr}")
    lines = [line.split(" ", 1) for line in record.read_text().splitlines()]
    return [Change(job, n, what, os.path.relpath(path, results)) for n, (what, path) in enumerate(lines, 1)]


def prepare(
    library: Path, results: Path, number: int, obstacle: Obstacle, record: Path | None = None
) -> dict[str, str]:
    """The environment in which the `number`-th change below `results` fails."""
    return {
        "LD_PRELOAD": str(library),
        "FAULT_ROOT": str(results),
        "FAULT_AT": str(number),
        "FAULT_ERROR": str(obstacle.error),
        "FAULT_HOW": obstacle.how,
    } | ({"FAULT_LOG": str(record)} if record else {})


def fail_change(run: Run, library: Path, change: Change, obstacle: Obstacle, results: Path) -> str:
    """Let one change fail, and run the job again; what did not hold, or an empty string."""
    delete(results)
    copy_results(run.results, results, change.job.written)
    failed = run_command(change.job.fill_in(results), prepare(library, results, change.number, obstacle))
    return judge(run, change.job, results, failed)


def judge(run: Run, job: Job, results: Path, failed: subprocess.CompletedProcess) -> str:
    """What is wrong with how a job failed, and with the same command again; a job that ended well is not run again."""
    note = judge_failure(run, job, results, failed)
    return note if note or failed.returncode == 0 else judge_rerun(run, job, results)


def judge_failure(run: Run, job: Job, results: Path, failed: subprocess.CompletedProcess) -> str:
    """What is wrong with how a job failed: with what it said, and with what it left."""
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    if "Traceback" in failed.stderr or "Exception ignored" in failed.stderr:
        return f"a traceback: {failed.stderr[-300:]!r}"
    if failed.returncode == 0:
        # Nothing but the log was not written, and that was said; or what failed was not needed.
        return "it ends well with other bytes" * bool(find_differences(results, run.results, job.written))
    if len(errors) != 1 or not re.search(CLEAR, errors[0]):
        return f"exit {failed.returncode} and {errors or failed.stderr[-300:]!r} instead of one clear line"
    # Folders that its own job does not declare grow file by file, each whole.
    whole = [name for place in job.written for name in find_differences(results, run.results, [place])]
    half = [name for name in whole if (results / name).exists()]
    torn = [place for place in job.outputs if (results / place).is_dir() and any(list_results(results / place))]
    torn = [place for place in torn if find_differences(results, run.results, [place])]
    return f"half-made under a final name: {', '.join([*half, *torn][:3])}" * bool(half or torn)


def judge_rerun(run: Run, job: Job, results: Path) -> str:
    """What is wrong after the same command again."""
    again = run_command(job.fill_in(results))
    if again.returncode:
        return f"the next run fails: {again.stderr[-300:]!r}"
    different = find_differences(results, run.results, job.written)
    left = set(list_results(results)) - list_wanted(run)
    if different or left:
        return f"after the next run, other bytes: {different[:3]}, left over: {sorted(left)[:3]}"
    return ""


@cache
def list_whole(results: Path) -> frozenset[str]:
    """The names of all results."""
    return frozenset(list_results(results))


def list_wanted(run: Run) -> frozenset[str]:
    """The names of all results of a run."""
    return list_whole(run.results)
