"""A run of the whole workflow, killed repeatedly: all of it, Snakemake alone, or one of its workers."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

from tools.faults.outcomes import Outcome
from tools.faults.worker_kills import CAMPAIGN
from tools.faults.working_copy import Process, WorkingCopy, compare_runs

EVERYONE = "SIGKILL of Snakemake and its workers"
ALONE = "SIGKILL of Snakemake, rerun beside its orphaned workers"
ONE = "SIGKILL of a worker under Snakemake"
FAULTS = (EVERYONE, ALONE, ONE)
LONGEST = 6.0  # seconds from a run's first worker to the kill
ENTRY = re.compile(r"workflow_scripts\.\w+\.(\w+)")


def attack_workflow(
    copy: WorkingCopy, wanted: dict[str, str], targets: Sequence[str], count: int, rng: random.Random
) -> list[Outcome]:
    """Run `targets` from nothing with up to `count` kills, then to the end, and compare: an outcome a kill."""
    hits: list[tuple[str, str]] = []
    orphans: list[psutil.Process] = []
    command = copy.snakemake(*targets)
    process, is_hurt = copy.start(command), False
    while len(hits) < count:
        await_moment(process, rng)
        if process.poll() is None:
            fault, workers = rng.choice(FAULTS), list_workers(process)
            if place := kill(process, workers, fault, rng):
                hits.append((fault, place))
            is_hurt = is_hurt or fault == ONE
            if fault != ONE:
                orphans += workers
                process.wait()
                copy.run("--unlock")
        elif not is_hurt:
            break
        if process.poll() is not None:
            process, is_hurt = copy.start(command), False
    note = end_workflow(copy, process, is_hurt)
    psutil.wait_procs(orphans)
    note = note or compare_runs(copy.read_tree(), wanted)
    return [Outcome(CAMPAIGN, fault, place, not note, note) for fault, place in hits]


def end_workflow(copy: WorkingCopy, process: Process, is_hurt: bool) -> str:
    """Let the run end, and another one if this one lost a worker; what is wrong then, or an empty string."""
    said = process.end()
    if is_hurt:
        process = copy.start(process.args)
        said = process.end()
    return f"ended with {process.returncode}: {said[-300:]}" if process.returncode else ""


def await_moment(process: Process, rng: random.Random) -> None:
    """Wait for a random moment: mostly after a first worker has started, sometimes while the run is planned."""
    if rng.random() < 0.9:
        while not list_workers(process) and process.poll() is None:
            time.sleep(0.05)
    with suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0, LONGEST))


def list_workers(process: Process) -> list[psutil.Process]:
    """The living workers of a run."""
    workers = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if name_entry(child):
                    workers.append(child)
    return workers


def name_entry(worker: psutil.Process) -> str:
    """The entry a process runs, or an empty string; the shell that started it is none."""
    words = worker.cmdline()
    found = ENTRY.fullmatch(words[2]) if len(words) > 2 else None
    return found[1] if found else ""


def kill(process: Process, workers: list[psutil.Process], fault: str, rng: random.Random) -> str:
    """Do what `fault` says; the place that was hit, or an empty string if there was none."""
    if fault == ONE:
        return kill_one(workers, rng)
    (os.killpg if fault == EVERYONE else os.kill)(process.pid, signal.SIGKILL)
    return "the whole workflow"


def kill_one(workers: list[psutil.Process], rng: random.Random) -> str:
    """Kill a random worker; its entry."""
    if not workers:
        return ""
    worker = rng.choice(workers)
    with suppress(psutil.NoSuchProcess):
        entry = name_entry(worker)
        worker.kill()
        return entry
    return ""
