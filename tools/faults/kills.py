"""SIGKILL of workers and of Snakemake at random moments: the final results have the bytes of an undisturbed run.

Most kills hit one worker, started by the command that Snakemake runs, several times before it may end. The others hit a
run of the whole workflow, repeatedly until it is finished. Power cuts are not included: the death of a process does not
show whether flushed data reached the disk.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count as count_from
from pathlib import Path
from queue import SimpleQueue

from tools.faults.outcomes import Outcome
from tools.faults.undisturbed import CORES
from tools.faults.worker_kills import attack_worker, measure_job
from tools.faults.workflow_kills import attack_workflow
from tools.faults.working_copy import EVERYTHING, Job, WorkingCopy, open_reference

# Of all kills, those that hit a run of the workflow.
WORKFLOW_SHARE = 1 / 8
# Rules that resume from a checkpoint, where kills matter most, are killed this many times as often.
RESUMABLE = {
    "collect_shard",
    "capture_blocks",
    "optimise_block",
    "optimise_rung_block",
    "distil",
    "generate_images",
    "fold_model",
}
WEIGHT = 4


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Kill `count` times at least, over every rule."""
    reference = open_reference()
    by_workflow = max(1, round(count * WORKFLOW_SHARE))
    yield from kill_workers(reference, count - by_workflow, seed, folder)
    yield from kill_workflows(reference, by_workflow, seed, folder / "killed", EVERYTHING)


def kill_workers(reference: WorkingCopy, count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Attack one job after the other, on all cores, until `count` kills have hit."""
    wanted, hits, attacks = reference.read_tree(), 0, list_attacks(reference.list_jobs(), random.Random(seed))
    free: SimpleQueue[WorkingCopy] = SimpleQueue()
    for number in range(CORES):
        free.put(reference.duplicate(folder / f"copy {number}"))
    measures = {}

    def attack(number: int, job: Job) -> list[Outcome]:
        copy = free.get()
        try:
            measure = measures.get(job.rule) or measures.setdefault(job.rule, measure_job(copy, job))
            outcomes = attack_worker(copy, wanted, job, measure, random.Random(f"{seed} {number}"))
            if not all(outcome.survived for outcome in outcomes):
                copy.reset(reference)
            return outcomes
        finally:
            free.put(copy)

    with ThreadPoolExecutor(CORES) as pool:
        number = 0
        while hits < count:
            some = [next(attacks) for _ in range(2 * CORES)]
            for outcomes in pool.map(attack, range(number, number + len(some)), some):
                hits += len(outcomes)
                yield from outcomes
            number += len(some)


def list_attacks(jobs: Sequence[Job], rng: random.Random) -> Iterator[Job]:
    """Jobs to attack, for ever: a random one of every rule, and more of the resumable ones, before any rule again."""
    by_rule: dict[str, list[Job]] = {}
    for job in jobs:
        by_rule.setdefault(job.rule, []).append(job)
    rules = list(Counter({rule: WEIGHT if rule in RESUMABLE else 1 for rule in by_rule}).elements())
    while True:
        rng.shuffle(rules)
        yield from (rng.choice(by_rule[rule]) for rule in rules)


def kill_workflows(
    reference: WorkingCopy, count: int, seed: int, folder: Path, targets: Sequence[str]
) -> Iterator[Outcome]:
    """Run everything from nothing, and kill it again and again, until there were `count` kills and it is through."""
    wanted, rng, hits, runs = reference.read_tree(), random.Random(seed), 0, count_from(0)
    while hits < count:
        copy = reference.duplicate_program(folder / str(next(runs)))
        outcomes = attack_workflow(copy, wanted, targets, count - hits, rng)
        hits += len(outcomes)
        yield from outcomes
