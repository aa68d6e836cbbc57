"""Flipped bits, truncations, missing and swapped files in all results.

The job that reads a file by the table of `artefacts` must stop with a line that names it and says what to delete. After
the deletion and a rerun of the jobs that make it, every byte must equal the undisturbed run. One in `SHARE` goes
through Snakemake, which must run the affected jobs and no others; the rest call the jobs directly.
"""

import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.faults.artefacts import VERIFY, find_pattern, list_readers
from tools.faults.contents import has_same_content
from tools.faults.harm import REMOVE, Damage, choose_damages, do_harm
from tools.faults.outcomes import Outcome
from tools.faults.undisturbed import (
    CORES,
    Job,
    Run,
    call_snakemake,
    copy_results,
    delete,
    find_differences,
    lies_in,
    list_names,
    run_command,
    run_quick,
)

SHARE = 25
MOST_CURES = 5  # for one damage; each is a run of the reader and what it asks for
KEEPS_OUTPUTS = {"optimise_block", "optimise_rung_block"}  # `update()`: Snakemake does not delete them before the job


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Do `count` kinds of harm, one to each copy: each kind to a file of each sort, then to others by chance."""
    run = run_quick(folder / "undisturbed")
    repair = Repair(run)

    def judge(index: int, damage: Damage) -> Outcome:
        copy = folder / f"copy {index}"
        if index % SHARE == SHARE - 1:
            note = judge_through_snakemake(run, folder / "undisturbed", damage, copy)
            label = f"{damage.kind} (by Snakemake)"
        else:
            note, label = judge_directly(run, repair, damage, copy / "results"), damage.kind
        delete(copy)
        note = note and f"{' and '.join(damage.names)}: {note}"
        return Outcome("corruptions", label, find_pattern(damage.names[0]), not note, note)

    damages = choose_damages(run, random.Random(seed))[:count]
    with ThreadPoolExecutor(CORES) as pool:
        yield from pool.map(judge, range(len(damages)), damages)


class Repair:
    """Runs the jobs that make what is gone. What a job makes does not depend on what was wrong with what is deleted,
    so it runs once for each set of deleted files, and what it made is taken again."""

    def __init__(self, run: Run):
        self.run = run
        self.proven: set[tuple] = set()

    def __call__(self, results: Path, gone: set[str], damage: Damage) -> str:
        """Make everything in `gone` again; what did not work, or an empty string."""
        jobs = {job for name in gone if (job := self.run.find_producer(name))}
        for job in sorted(jobs, key=lambda job: len(self.run.list_ancestors(job))):
            left = [name for name in damage.names if lies_in_any(name, job.written) and not lies_in_any(name, gone)]
            key = (job, frozenset(name for name in gone if lies_in_any(name, job.written)))
            if key in self.proven and not left:
                link_again(self.run, job, results)
                continue
            for place in job.outputs if job.rule not in KEEPS_OUTPUTS else ():
                delete(results / place)
            done = run_command(job.fill_in(results))
            if done.returncode:
                return f"{job.rule} cannot make it again: {done.stderr[-300:]!r}"
            if different := find_differences(results, self.run.results, job.written):
                return f"made again, other bytes in {different[:3]}"
            if not left:
                self.proven.add(key)
        return ""


def lies_in_any(name: str, places: Sequence[str] | set[str]) -> bool:
    """Whether `name` is one of `places` or in one."""
    return any(lies_in(name, place) for place in places)


def link_again(run: Run, job: Job, results: Path) -> None:
    """Put what a job makes into a copy."""
    for place in job.written:
        delete(results / place)
        if not (run.results / place).exists():
            continue
        (results / place).parent.mkdir(parents=True, exist_ok=True)
        source = run.results / place
        if source.is_dir():
            shutil.copytree(source, results / place, copy_function=os.link)
        else:
            os.link(source, results / place)


def judge_directly(run: Run, repair: Repair, damage: Damage, results: Path) -> str:
    """Do harm, call the readers, follow what they say; what did not hold, or an empty string."""
    copy_results(run.results, results)
    do_harm(results, damage)
    for name in damage.names:
        readers = list_readers(run, name)
        if not readers:
            return "no job reads it"
        # What no job reads may be missing, as if it had not been asked for; who asks for it has it made.
        if damage.kind == REMOVE and readers[0].rule == VERIFY and name in run.find_producer(name).outputs:
            return repair(results, {name}, damage) or judge_bytes(run, damage, results)
        reader = random.Random(damage.seed).choice(readers)
        if note := follow_reader(run, repair, damage, reader, results):
            return note
    return judge_bytes(run, damage, results)


def follow_reader(run: Run, repair: Repair, damage: Damage, reader: Job, results: Path) -> str:
    """Call the reader until it is content, doing each time what it says; what did not hold, or an empty string."""
    for turn in range(MOST_CURES):
        for place in reader.written:
            delete(results / place)
        if turn and is_whole(run, reader, results):
            link_again(run, reader, results)
            return ""
        done = run_command(reader.fill_in(results))
        if done.returncode == 0:
            return ""
        note, gone = read_cure(done.stderr, results, run, damage)
        if note:
            return f"{reader.rule}: {note}"
        for name in gone:
            delete(results / name)
        missing = {name for name in damage.names if not (results / name).exists()}
        if note := repair(results, gone | missing, damage):
            return note
    return f"{reader.rule} still rejects: {done.stderr[-300:]!r}"


def is_whole(run: Run, reader: Job, results: Path) -> bool:
    """Whether all but what the reader makes is as it was: then it makes what it made."""
    return all(lies_in_any(name, reader.written) for name in find_differences(results, run.results, ["."]))


def read_cure(said: str, results: Path, run: Run, damage: Damage) -> tuple[str, set[str]]:
    """What is wrong with what a reader said, or an empty string; and the names of what it says to delete."""
    if "Traceback" in said:
        return f"a traceback: {said[-300:]!r}", set()
    pattern = rf"{re.escape(str(results))}/[^\s;,:()'\"]+"
    gone, named = set(), set()
    for line in said.splitlines():
        paths = [path.rstrip(".").removeprefix(f"{results}/") for path in re.findall(pattern, line)]
        named.update(paths)
        what = re.search(rf"delete (it|both|{pattern})(?: and ({pattern}))?", line)
        if what and paths:
            gone |= {"it": {paths[0]}, "both": set(paths[:2])}.get(
                what[1], {path.rstrip(".").removeprefix(f"{results}/") for path in what.groups() if path}
            )
    makers = {run.find_producer(name) for name in gone}
    for name in damage.names:
        is_gone = not (results / name).exists()
        if lies_in_any(name, gone) or run.find_producer(name) in makers or (is_gone and name in named):
            return "", gone
    last = [line for line in said.splitlines() if line.startswith("error: ")][-1:]
    return f"not named, or no cure: {last or said[-300:]}", gone


def judge_through_snakemake(run: Run, folder: Path, damage: Damage, copy: Path) -> str:
    """The same by Snakemake, asked for what the reader makes; what did not hold, or an empty string."""
    shutil.copytree(folder, copy, copy_function=shutil.copy2)
    results = copy / "results"
    do_harm(results, damage)
    readers = [random.Random(damage.seed).choice(list_readers(run, name)) for name in damage.names]
    outputs = [place for reader in readers for place in reader.outputs]
    targets = [f"results/{place}" for place in outputs] + [reader.rule for reader in readers if not reader.outputs]
    gone, said = {name for name in damage.names if not (results / name).exists()}, ""
    for _ in range(MOST_CURES):
        for place in (place for reader in readers for place in reader.written):
            delete(results / place)
        makers = {job for name in gone if (job := run.find_producer(name))}
        done = call_snakemake(copy, *targets, *sorted({f"results/{job.outputs[0]}" for job in makers}))
        said += done.stdout
        if done.returncode == 0:
            break
        note, told = read_cure(done.stdout.replace("results/", f"{results}/"), results, run, damage)
        if note:
            return f"{readers[0].rule}: {note}"
        gone |= told
        for name in told:
            delete(results / name)
    else:
        return f"{readers[0].rule} still rejects: {done.stdout[-300:]!r}"
    # The report shows how long the jobs took.
    return judge_jobs(run, said, makers, set(readers)) or judge_bytes(
        run, damage, results, {"report.html", "report.html.sha256"}
    )


def judge_jobs(run: Run, said: str, makers: set[Job], readers: set[Job]) -> str:
    """Whether Snakemake ran other jobs than those that make what was gone, the readers, and those between them."""
    affected = readers | makers
    for job in {job for reader in readers for job in run.list_ancestors(reader)}:
        if makers & set(run.list_ancestors(job)):
            affected.add(job)
    wanted = {name for job in affected for name in job.outputs}
    ran = {name.removeprefix("results/") for name in list_names(said, "output")}
    return f"ran {sorted(ran - wanted)} needlessly, and not {sorted(wanted - ran)}" * (ran != wanted)


def judge_bytes(run: Run, damage: Damage, results: Path, other: set[str] = frozenset()) -> str:
    """Whether all is as it was, except what no reader could see, and for files that are to be `other` ones."""
    different = [name for name in find_differences(results, run.results, ["."]) if name not in other]
    if set(different) <= set(damage.names) and all(has_same_content(results / n, run.results / n) for n in different):
        return ""
    return f"not found; other bytes in {different[:3]}"
