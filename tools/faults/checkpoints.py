"""Damage to the scratch folder from which an interrupted job resumes.

A job is killed during a write, a file of its scratch folder is damaged, or its numbers are not finite. The same command
must then name what it ignores, and end with the bytes of an undisturbed run.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taqmlx.store.tensors import read_sealed_tensors, write_sealed_tensors
from tools.faults.harm import FLIP, REMOVE, TRUNCATE, Damage, do_harm
from tools.faults.outcomes import Outcome
from tools.faults.undisturbed import Job, Run, copy_results, delete, find_differences, run_command, run_quick
from tools.faults.writes import Obstacle, build_library, list_changes, prepare

RULES = ("collect_shard", "capture_blocks", "fold_model", "optimise_block", "distil", "generate_images")
NOT_FINITE = "numbers that are not finite"
KILLED = Obstacle(0, "once")


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Kill jobs and damage what they leave, `count` times, in turns."""
    library, rng = build_library(folder), random.Random(seed)
    if library is None:
        print("checkpoints: skipped, since there is no C compiler (cc) to build the library that kills")
        return
    run = run_quick(folder / "undisturbed")
    jobs = [rng.choice([job for job in run.jobs if job.rule == rule]) for rule in RULES]
    changes = {job: len(list_changes(run, library, folder, job)) for job in jobs}
    results, planted = folder / "copy", 0
    while planted < count:
        job = jobs[planted % len(jobs)]
        kind = (FLIP, TRUNCATE, REMOVE, NOT_FINITE)[planted // len(jobs) % 4]
        left = interrupt(run, library, job, rng.randrange(changes[job] // 3, changes[job]), results)
        names = [name for name in left if kind != NOT_FINITE or name.endswith("learning.safetensors")]
        planted += 1
        if names:
            name = rng.choice(names)
            note = judge(run, job, results, kind, name, rng)
            yield Outcome("corruptions", f"{kind}, in a checkpoint", job.rule, not note, note and f"{name}: {note}")


def interrupt(run: Run, library: Path, job: Job, number: int, results: Path) -> list[str]:
    """Kill a job at one of its changes; the files that are not results, or not yet."""
    delete(results)
    copy_results(run.results, results, job.written)
    run_command(job.fill_in(results), prepare(library, results, number, KILLED))
    files = [path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()]
    places = ("scratch/", *job.written)
    return sorted(name for name in files if name.startswith(places) and (results / name).stat().st_size)


def judge(run: Run, job: Job, results: Path, kind: str, name: str, rng: random.Random) -> str:
    """Do harm to one file and run the job again; what did not hold, or an empty string."""
    if kind == NOT_FINITE:
        arrays, about = read_sealed_tensors(results / name)
        key = rng.choice([key for key, array in arrays.items() if array.dtype.kind == "f"])
        arrays[key] = np.full_like(arrays[key], np.nan)
        write_sealed_tensors(results / name, arrays, about)
    else:
        do_harm(results, Damage(kind, (name,), rng.getrandbits(32)))
    again = run_command(job.fill_in(results))
    if again.returncode or "Traceback" in again.stderr:
        return f"the next run fails: {again.stderr[-300:]!r}"
    different = find_differences(results, run.results, job.written)
    return f"other bytes in {different[:3]}" if different else ""
