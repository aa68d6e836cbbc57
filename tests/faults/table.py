"""The document of what was planted, survived and lost."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.outcomes import Outcome

HEAD = """# Reliability

What `make faults` did to the workflow on the embedded model at the scale of `config/quick.yaml`, and what came of it.
The command writes this page. *Survived* means that everything demanded held: one or two clear lines instead of a
traceback, nothing half-written under a final name, and after the cure that the message names (or the same command
again) the bytes of an undisturbed run. What earlier runs lost, and what became of it: [lessons](lessons.md).
"""


def write_document(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the page for these outcomes."""
    parts = [HEAD, format_total(outcomes), format_faults(outcomes)]
    for campaign in sorted({outcome.campaign for outcome in outcomes}):
        part = [outcome for outcome in outcomes if outcome.campaign == campaign]
        parts.append(f"## {name_campaign(campaign)}\n\n{format_places(part)}\n")
    path.write_text("\n".join(parts), encoding="utf-8")


def name_campaign(module: str) -> str:
    """A campaign's name in a heading."""
    return module.replace("_", " ").capitalize()


def format_faults(outcomes: Sequence[Outcome]) -> str:
    """A table with a line for each kind of fault."""
    lines = ["| campaign | fault | places | tried | survived | lost |", "|---|---|---:|---:|---:|---:|"]
    kinds = group(outcomes, lambda outcome: (name_campaign(outcome.campaign), outcome.fault))
    for (campaign, fault), kind in kinds.items():
        places = len({outcome.place for outcome in kind})
        lines.append(f"| {campaign} | {fault} | {places} | {count(kind)} |")
    return "\n".join(lines) + "\n"


def format_places(outcomes: Sequence[Outcome]) -> str:
    """A table with a line for each place, and each kind of fault there."""
    lines = ["| place | fault | tried | survived | lost |", "|---|---|---:|---:|---:|"]
    for (place, fault), kind in group(outcomes, lambda outcome: (outcome.place, outcome.fault)).items():
        lines.append(f"| `{place}` | {fault} | {count(kind)} |")
    return "\n".join(lines)


def group(
    outcomes: Sequence[Outcome], name: Callable[[Outcome], tuple[str, str]]
) -> dict[tuple[str, str], list[Outcome]]:
    """The outcomes by their `name`, in its order."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=name):
        found.setdefault(name(outcome), []).append(outcome)
    return found


def count(outcomes: Sequence[Outcome]) -> str:
    """How many were tried, survived, and lost, as cells of a table."""
    survived = sum(outcome.survived for outcome in outcomes)
    return f"{len(outcomes)} | {survived} | {len(outcomes) - survived}"


def format_total(outcomes: Sequence[Outcome]) -> str:
    """How many there were in all, and every one that was lost."""
    lost = [outcome for outcome in outcomes if not outcome.survived]
    head = f"In all {len(outcomes)} faults: {len(outcomes) - len(lost)} survived, {len(lost)} lost.\n"
    return head + "".join(f"\n- {outcome.fault}, `{outcome.place}`: {outcome.note}" for outcome in lost)
