"""Outcomes of injected faults, and their files of JSON lines."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """One planted fault.

    campaign: its module here; fault: what was done, `SIGKILL of a worker`; place: to which stage or file,
    `collect_shard`; survived: whether everything demanded of the project held; note: if not, what happened instead.
    """

    campaign: str
    fault: str
    place: str
    survived: bool
    note: str = ""


def append_outcome(path: Path, outcome: Outcome) -> None:
    """Add one line to a file of outcomes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")


def read_outcomes(paths: Iterable[Path]) -> Iterator[Outcome]:
    """The outcomes in files of JSON lines, in order."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Outcome(**json.loads(line))
