"""Two workers of one job, two Snakemake processes in one folder: they never write together, and the bytes are right."""

import fcntl
import random
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tools.faults.kills import RESUMABLE, list_attacks
from tools.faults.outcomes import Outcome
from tools.faults.worker_kills import clear_job, end_worker, measure_job
from tools.faults.workflow_kills import list_workers
from tools.faults.working_copy import Job, Process, WorkingCopy, compare_runs, compare_trees, open_reference

CAMPAIGN = "locks"
TOGETHER = "two workers of one job at once"
STOPPED = "a second worker while the first is stopped"
DEAD = "a second worker while the first is stopped, then killed"
REFUSED, UNLOCKED = (
    "two Snakemake processes in one folder",
    "two Snakemake processes in one folder, the second with --nolock",
)
# Those that hold a lock while they work.
LOCKED = sorted(RESUMABLE | {"gather_calibration"})
PATIENCE = 120.0  # seconds
JOBS = 4  # that two Snakemake processes want


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """`count` pairs at least: of every rule's worker at once, of those that lock with a stopped one, of Snakemakes."""
    reference, rng = open_reference(), random.Random(seed)
    copy, wanted = reference.duplicate(folder / "copy"), reference.read_tree()
    attacks, planted = list_attacks(reference.list_jobs(), rng), 0
    while planted < count:
        for outcome in [
            pair_workers(copy, wanted, next(attacks), rng),
            stop_first(copy, wanted, choose_locked(reference, rng), rng.choice([STOPPED, DEAD])),
            *([pair_workflows(copy, wanted, rng.choice([REFUSED, UNLOCKED]), rng)] if planted % 10 == 0 else []),
        ]:
            planted += 1
            # A run leaves other times than those in the report.
            if not outcome.survived or outcome.fault in (REFUSED, UNLOCKED):
                copy.reset(reference)
            yield outcome


def choose_locked(reference: WorkingCopy, rng: random.Random) -> Job:
    """A random job of a random rule that locks."""
    rule = rng.choice(LOCKED)
    return rng.choice([job for job in reference.list_jobs() if job.rule == rule])


def pair_workers(copy: WorkingCopy, wanted: dict[str, str], job: Job, rng: random.Random) -> Outcome:
    """Start a job's worker twice, the second some way into the first, and let both end."""
    seconds = measure_job(copy, job).seconds
    clear_job(copy, job)
    first = copy.start(job.words)
    time.sleep(rng.uniform(0, seconds))
    second = copy.start(job.words)
    notes = [judge_end(process) for process in (first, second)]
    if "".join(notes):
        return Outcome(CAMPAIGN, TOGETHER, job.rule, False, "; ".join(filter(None, notes)))
    # Of two, one may be told that the other's work is in its way; what it asks for is done.
    note = (end_worker(copy, job) if second.returncode else "") or compare_trees(copy.read_tree(), wanted)
    return Outcome(CAMPAIGN, TOGETHER, job.rule, not note, note)


def judge_end(process: Process) -> str:
    """What is wrong with how a worker ended; nothing if it was told what is in its way."""
    said = process.end()
    return f"ended with {process.returncode}: {said[-300:]}" if process.returncode and "in the way" not in said else ""


def find_lock(copy: WorkingCopy, job: Job) -> Path:
    """The file that the job's worker locks."""
    option = "--scratch" if "--scratch" in job.words else "--out"
    place = copy.folder / job.words[job.words.index(option) + 1]
    if job.rule == "gather_calibration":
        return place.parent / "scratch" / f"{place.stem}.lock"
    return place.with_name(f"{place.name}.lock")


def is_held(path: Path) -> bool:
    """Whether some process holds the lock of a file."""
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def stop_first(copy: WorkingCopy, wanted: dict[str, str], job: Job, fault: str) -> Outcome:
    """Stop a worker that holds its lock, start another: that one waits and writes nothing until the first is gone."""
    clear_job(copy, job)
    lock, first = find_lock(copy, job), copy.start(job.words)
    while not is_held(lock) and first.poll() is None:
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    before, second = copy.read_tree(), copy.start(job.words)
    note = "" if await_words(second, "waiting for it to end") else f"did not wait: {second.said.read_text()[-300:]}"
    if not note and copy.read_tree() != before:
        note = "wrote while another held the lock"
    first.send_signal(signal.SIGKILL if fault == DEAD else signal.SIGCONT)
    notes = [judge_end(process) for process in ([second] if fault == DEAD else [first, second])]
    first.wait()
    note = note or "".join(notes) or compare_trees(copy.read_tree(), wanted)
    return Outcome(CAMPAIGN, fault, job.rule, not note, note)


def await_words(process: Process, words: str) -> bool:
    """Whether a process says `words` before it ends, and soon enough."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        if words in process.said.read_text(encoding="utf-8"):
            return True
        time.sleep(0.05)
    return False


def pair_workflows(copy: WorkingCopy, wanted: dict[str, str], fault: str, rng: random.Random) -> Outcome:
    """Start Snakemake while another is at work on the same jobs."""
    resumable = [job for job in copy.list_jobs() if job.rule in RESUMABLE]
    jobs = rng.sample(resumable, min(JOBS, len(resumable)))
    for job in jobs:
        clear_job(copy, job)
    targets = [name for job in jobs for name in job.outputs]
    first = copy.start(copy.snakemake(*targets))
    while not list_workers(first) and first.poll() is None:
        time.sleep(0.05)
    second = copy.run(*targets, *(["--nolock"] if fault == UNLOCKED else []))
    first.end()
    note = ""
    if fault == REFUSED:
        is_clear = "cannot be locked" in second.stdout and "Traceback" not in second.stdout
        note = "" if second.returncode and is_clear else f"not rejected: {second.stdout[-300:]}"
    done = copy.run(*targets)
    note = note or (f"ended with {done.returncode}: {done.stdout[-300:]}" if done.returncode else "")
    note = note or compare_runs(copy.read_tree(), wanted)
    return Outcome(CAMPAIGN, fault, shlex.join(sorted({job.rule for job in jobs})), not note, note)
