"""One worker, killed several times after a delay or at a file operation, then run to its end."""

import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tools.faults.outcomes import Outcome
from tools.faults.working_copy import Job, WorkingCopy, compare_trees

CAMPAIGN = "kills"
BY_CLOCK, BY_OPERATION = "SIGKILL of a worker at a random time", "SIGKILL of a worker before a random file operation"
IN_A_ROW = 4
# Snakemake does not delete what a rule updates before the rule's jobs.
UPDATED = {"optimise_block", "optimise_rung_block"}
COUNT = "operations"


class Measure(NamedTuple):
    """What an undisturbed job takes: seconds, and operations that change files."""

    seconds: float
    operations: int


def list_limited(copy: WorkingCopy, job: Job, limit: int) -> list[str]:
    """The job's command, to be killed after `limit` file operations."""
    script = Path(__file__).with_name("kill_at.py").resolve()
    python, _, module, *options = job.words
    return [python, str(script), str(limit), str(copy.folder / COUNT), module, *options]


def measure_job(copy: WorkingCopy, job: Job) -> Measure:
    """Run a job undisturbed, from nothing."""
    clear_job(copy, job)
    start = time.monotonic()
    done = copy.finish(list_limited(copy, job, sys.maxsize))
    assert done.returncode == 0, f"{job.command}: {done.stdout}"
    return Measure(time.monotonic() - start, int((copy.folder / COUNT).read_text()))


def clear_job(copy: WorkingCopy, job: Job) -> None:
    """Remove all that the job makes, as if it had never run."""
    delete_outputs(copy, job)
    if job.rule == "generate_images":
        shutil.rmtree((copy.folder / job.outputs[0]).with_suffix(""))


def delete_outputs(copy: WorkingCopy, job: Job) -> None:
    """Remove what the job declares to write."""
    for path in (copy.folder / name for name in job.outputs):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def attack_worker(
    copy: WorkingCopy, wanted: dict[str, str], job: Job, measure: Measure, rng: random.Random
) -> list[Outcome]:
    """Kill a job's worker some times in a row, let it end, and compare all results with `wanted`: an outcome a kill."""
    clear_job(copy, job)
    faults = []
    for _ in range(rng.randint(1, IN_A_ROW)):
        fault = rng.choice([BY_CLOCK, BY_OPERATION])
        if kill_worker(copy, job, measure, fault, rng):
            faults.append(fault)
        # As Snakemake does before it runs the job again; who runs it again by hand does not.
        if job.rule not in UPDATED and rng.random() < 0.5:
            delete_outputs(copy, job)
    note = end_worker(copy, job) or compare_trees(copy.read_tree(), wanted)
    return [Outcome(CAMPAIGN, fault, job.rule, not note, note) for fault in faults]


def kill_worker(copy: WorkingCopy, job: Job, measure: Measure, fault: str, rng: random.Random) -> bool:
    """Start the worker and kill it at a random moment; whether that came before its end."""
    if fault == BY_OPERATION:
        done = copy.finish(list_limited(copy, job, rng.randrange(measure.operations)))
        return done.returncode == -signal.SIGKILL
    process = copy.start(job.words)
    with suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0, measure.seconds))
    process.kill()
    process.wait()
    return process.returncode == -signal.SIGKILL


def end_worker(copy: WorkingCopy, job: Job) -> str:
    """Run the worker to its end, with the cure it asks for if it does; what is wrong then, or an empty string."""
    done = copy.finish(job.words)
    if done.returncode and "delete it and run again" in done.stdout:
        delete_outputs(copy, job)
        done = copy.finish(job.words)
    return f"ended with {done.returncode}: {done.stdout[-300:]}" if done.returncode else ""
