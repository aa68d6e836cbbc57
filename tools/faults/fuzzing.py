"""Artefacts with hostile content: no traceback, no waiting, no code run, nothing written elsewhere, bounded memory."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.faults.hostile import damage, find_failure
from tools.faults.outcomes import Outcome
from tools.faults.sound_artefacts import build_artefacts

CAMPAIGN = "fuzzing"


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Change an artefact, one kind after the other, `count` times; let its reader read it."""
    artefacts = build_artefacts(folder / "artefacts")
    for index in range(count):
        name = list(artefacts)[index % len(artefacts)]
        copy = folder / "copy"
        what = damage(random.Random(seed * 1_000_003 + index), artefacts[name], copy)
        failure = find_failure(artefacts[name].read, copy)
        shutil.rmtree(copy)
        yield Outcome(CAMPAIGN, "a file with hostile content", name, not failure, failure and f"{what}: {failure}")
