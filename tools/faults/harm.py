"""Damage to result files: its kinds, the choice of files, and the damage itself."""

import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tools.faults.artefacts import find_pattern
from tools.faults.undisturbed import Run

FLIP, TRUNCATE, REMOVE, SWAP = "a flipped bit", "a truncated file", "a missing file", "swapped files"


class Damage(NamedTuple):
    """What is done to which files, two if they are swapped; `seed` says to which bit, or where the file is cut."""

    kind: str
    names: tuple[str, ...]
    seed: int


def do_harm(results: Path, damage: Damage) -> None:
    """Do it to a copy of hard links: the files are rewritten, with their old dates."""
    rng, paths = random.Random(damage.seed), [results / name for name in damage.names]
    contents, dates = [path.read_bytes() for path in paths], [path.stat() for path in paths]
    if damage.kind == SWAP:
        contents.reverse()
    elif damage.kind == FLIP:
        changed = bytearray(contents[0])
        place = rng.randrange(8 * len(changed))
        changed[place // 8] ^= 1 << place % 8
        contents = [bytes(changed)]
    elif damage.kind == TRUNCATE:
        contents = [contents[0][: rng.randrange(len(contents[0]))]]
    for path, content, date in zip(paths, contents, dates, strict=True):
        path.unlink()
        if damage.kind != REMOVE:
            path.write_bytes(content)
            os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))


def choose_damages(run: Run, rng: random.Random) -> list[Damage]:
    """All there are, in an order by chance, except those first that are of a kind of their own."""
    names = run.list_files()
    damages = [
        Damage(kind, (name, *partners), rng.getrandbits(32))
        for name in names
        for kind in (FLIP, TRUNCATE, REMOVE, SWAP)
        if kind != REMOVE or not name.endswith(".sha256")  # files without digests are those of an earlier version
        if (partners := find_partner(run, names, name, rng) if kind == SWAP else ()) is not None
    ]
    rng.shuffle(damages)
    seen: set[tuple[str, str]] = set()
    first, others = [], []
    for damage in damages:
        kind = (damage.kind, name_sort(damage.names[0]))
        (others if kind in seen else first).append(damage)
        seen.add(kind)
    return first + others


def name_sort(name: str) -> str:
    """The name of a file without numbers: its sort."""
    return re.sub(r"\d+", "", name)


def find_partner(run: Run, names: Sequence[str], name: str, rng: random.Random) -> tuple[str] | None:
    """Another file of the same place in the table and the same suffix, but of other bytes; None if there is none."""
    content, pattern = (run.results / name).read_bytes(), find_pattern(name)
    others = [
        other
        for other in names
        if other != name and find_pattern(other) == pattern and Path(other).suffix == Path(name).suffix
    ]
    rng.shuffle(others)
    # Of the same sort first: those are the hardest to tell apart.
    for other in sorted(others, key=lambda other: name_sort(other) != name_sort(name)):
        if (run.results / other).read_bytes() != content:
            return (other,)
    return None
