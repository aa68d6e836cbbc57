"""The document of what was planted, survived and lost."""

from collections.abc import Sequence
from pathlib import Path

from tests.faults.outcomes import Outcome

HEAD = """# Reliability

What `make faults` did to the workflow on the embedded model at the scale of `config/quick.yaml`, and what came of it.
The command writes this page. *Survived* means that everything demanded held: one or two clear lines instead of a
traceback, nothing half-written under a final name, and after the cure that the message names (or the same command
again) the bytes of an undisturbed run.
"""


def write_document(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the page for these outcomes."""
    parts = [HEAD]
    for campaign in sorted({outcome.campaign for outcome in outcomes}):
        part = [outcome for outcome in outcomes if outcome.campaign == campaign]
        parts.append(f"## {campaign.replace('_', ' ').capitalize()}\n\n{format_rows(part)}\n")
    parts.append(format_total(outcomes))
    path.write_text("\n".join(parts), encoding="utf-8")


def format_rows(outcomes: Sequence[Outcome]) -> str:
    """A table with a line for each kind of fault at each place."""
    lines = ["| fault | place | tried | survived | lost |", "|---|---|---:|---:|---:|"]
    for fault, place in dict.fromkeys((outcome.fault, outcome.place) for outcome in outcomes):
        kind = [outcome for outcome in outcomes if (outcome.fault, outcome.place) == (fault, place)]
        survived = sum(outcome.survived for outcome in kind)
        lines.append(f"| {fault} | `{place}` | {len(kind)} | {survived} | {len(kind) - survived} |")
    return "\n".join(lines)


def format_total(outcomes: Sequence[Outcome]) -> str:
    """How many there were in all, and every one that was lost."""
    lost = [outcome for outcome in outcomes if not outcome.survived]
    head = f"In all {len(outcomes)} faults: {len(outcomes) - len(lost)} survived, {len(lost)} lost.\n"
    return head + "".join(f"\n- {outcome.fault}, `{outcome.place}`: {outcome.note}" for outcome in lost)
