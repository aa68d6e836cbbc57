"""Changes around the results between two runs: their folder, the clock, the configuration, the packages."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from taqmlx.runtime.versions import FILE, PACKAGES, read_recorded
from taqmlx.store.files import write_json
from tools.faults.clocks import date_files, turn_back
from tools.faults.config_changes import go_and_return, plan_changes, replace_results
from tools.faults.outcomes import Outcome
from tools.faults.relocations import CAMPAIGN, copy_copy, copy_without_times, find_paths, move_copy, move_results
from tools.faults.working_copy import WorkingCopy, compare_runs, open_reference

Change = Callable[[WorkingCopy, dict[str, str], random.Random], Iterator[Outcome]]


def update_packages(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """A package was another version: a line says so, the record has both, and what is finished stays finished."""
    record, (here,) = copy.results / FILE, read_recorded(copy.results)
    text = record.read_text(encoding="utf-8")
    for package in PACKAGES:
        other = here | {package: "0.0.1"}
        write_json(record, {"made_with": [other]})
        planned = copy.run("report", "-n")
        lines = [line for line in planned.stdout.splitlines() if line.startswith("warning: ")]
        note = "" if len(lines) == 1 and f"{package} 0.0.1" in lines[0] else f"not warned: {lines}"
        note = note or ("" if "Nothing to be done" in planned.stdout else "something is to be done")
        copy.results.joinpath("plots/image_fc1.png").unlink()
        copy.run("results/plots/image_fc1.png")
        note = note or ("" if read_recorded(copy.results) == [other, here] else "the record does not have both")
        record.write_text(text, encoding="utf-8")
        note = note or compare_runs(copy.read_tree(), wanted)
        yield Outcome(CAMPAIGN, "results of another package version", package, not note, note)


CHANGES: tuple[Change, ...] = (
    find_paths,
    move_copy,
    copy_copy,
    copy_without_times,
    move_results,
    update_packages,
    plan_changes,
    date_files,
    turn_back,
    go_and_return,
    replace_results,
)


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Make the changes one after the other, `count` of them at most, each kind on results that nothing has touched."""
    reference = open_reference()
    wanted = reference.read_tree()
    yield from islice(make_changes(reference, wanted, folder, random.Random(seed)), count)


def make_changes(reference: WorkingCopy, wanted: dict[str, str], folder: Path, rng: random.Random) -> Iterator[Outcome]:
    """Every change in turn."""
    for number, change in enumerate(CHANGES):
        copy = reference.duplicate(folder / str(number))
        yield from change(copy, wanted, rng)
