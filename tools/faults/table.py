"""The reliability page and its data file, written from the outcomes of the campaigns."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tools.faults.outcomes import Outcome

HEAD = """# Reliability

`make faults` injects faults into the workflow on purpose and checks the result against an undisturbed run. It uses the
embedded model at the scale of `config/quick.yaml`. The command writes this page and its data file,
[reliability.csv](reliability.csv), which has one row per kind of fault and place (a rule, a file or a setting).

## What counts as survived

A fault counts as *survived* if all of this holds:

- The error is one or two lines that name the file and the cure. There is no traceback.
- No incomplete file has its final name.
- After the cure that the message names, or after the same command again, every byte equals the undisturbed run.

A fault that breaks one of these counts as *lost* and is listed with what happened. [Lessons](lessons.md) describes the
faults that earlier runs lost, and their fixes.

## Campaigns

| campaign | what it does |
|---|---|
| Circumstances | The surroundings change between two runs: folder, clock, configuration, package versions. |
| Corruptions | Files of every kind are bit-flipped, truncated, removed or swapped. The reader must name the file. |
| Hostile files | Files of every kind are mutated at random. No code may run, and time and memory stay bounded. |
| Kills | Workers and Snakemake are killed with SIGKILL at random times, often several times in one run. |
| Locks | Two workers run the same job, or two Snakemake processes use one folder. |
| Non-finite values | Validly sealed files contain NaN or infinity. The first reader must name layer, step or prompt. |
| Writes | Each kind of write fails once: disk full, read-only, no permission, size limit. |

Power cuts are not covered: the death of a process does not show whether flushed data reached the disk. The full
campaigns take hours. `.ci/run` runs a short seeded part of each.
"""
COLUMNS = ("campaign", "fault", "place", "tried", "survived", "lost")
TITLES = {"fuzzing": "Hostile files", "nans": "Non-finite values"}


def write_document(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the page for these outcomes, and the data file beside it."""
    path.write_text(format_page(outcomes), encoding="utf-8")
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *list_rows(outcomes)])


def format_page(outcomes: Sequence[Outcome]) -> str:
    """The page: what is done, the totals and a table of the kinds of fault."""
    return "\n".join([HEAD, "## Results\n", format_total(outcomes), format_faults(outcomes)])


def list_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, str, str, int, int, int]]:
    """The rows of the data file: one per campaign, fault and place."""
    kinds = group(outcomes, lambda outcome: (outcome.campaign, outcome.fault, outcome.place))
    return [(*names, *count(kind)) for names, kind in kinds.items()]


def name_campaign(module: str) -> str:
    """The title of a campaign."""
    return TITLES.get(module, module.replace("_", " ").capitalize())


def format_faults(outcomes: Sequence[Outcome]) -> str:
    """A table with one row per kind of fault."""
    lines = ["| campaign | fault | places | tried | survived | lost |", "|---|---|---:|---:|---:|---:|"]
    kinds = group(outcomes, lambda outcome: (name_campaign(outcome.campaign), outcome.fault))
    for (campaign, fault), kind in kinds.items():
        places = len({outcome.place for outcome in kind})
        lines.append(f"| {campaign} | {fault} | {places} | {' | '.join(map(str, count(kind)))} |")
    return "\n".join(lines) + "\n"


def group(
    outcomes: Iterable[Outcome], name: Callable[[Outcome], tuple[str, ...]]
) -> dict[tuple[str, ...], list[Outcome]]:
    """The outcomes by their `name`, sorted."""
    found: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=name):
        found.setdefault(name(outcome), []).append(outcome)
    return found


def count(outcomes: Sequence[Outcome]) -> tuple[int, int, int]:
    """The numbers tried, survived and lost."""
    survived = sum(outcome.survived for outcome in outcomes)
    return len(outcomes), survived, len(outcomes) - survived


def format_total(outcomes: Sequence[Outcome]) -> str:
    """The totals, and every lost fault."""
    tried, survived, lost = count(outcomes)
    lines = [f"- {outcome.fault}, `{outcome.place}`: {outcome.note}" for outcome in outcomes if not outcome.survived]
    head = f"Of {tried} faults, {survived} were survived and {lost} lost.\n"
    return head + "".join(f"\n{line}" for line in lines) + "\n" * bool(lines)
