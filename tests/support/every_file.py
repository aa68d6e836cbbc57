"""One flipped bit in a file of every kind in a results folder, and the report of the verification.

The kinds are read from the disk: a name without its numbers, and without the names of variants and blocks.
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from taqmlx.checks.results import Results
from taqmlx.planning.variants import ALL, RUNGS
from workflow_scripts.tools.verify_dataset import CHECKS, run_check

# Between them they read everything; the others compare what the files say of one another.
READING = ("checksums", "calibration set", "every file")
# What carries no checksum, by the pattern that the verification lists it under.
NO_CHECKSUM = {"logs/*", "benchmarks/*", "scratch/*", "*.lock", ".*"}
CURE = re.compile(
    r"/.*; delete (?P<what>it|both|/\S+)(?: and (?P<more>/\S+))? and (?:make (?P<target>\S+)|run(?: \w+)?) again"
)
VARIANTS = {*ALL, *RUNGS, "packed", "real"}


def list_kinds(folder: Path) -> dict[str, list[Path]]:
    """The files below `folder` by their kind, all of them."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = [name_part(part) for part in path.relative_to(folder).parts]
        kinds.setdefault("/".join(parts), []).append(path)
    return kinds


def name_part(part: str) -> str:
    """A part of a name as that of a kind."""
    stem, dot, ends = part.partition(".")
    return f"VARIANT{dot}{ends}" if stem in VARIANTS else re.sub(r"\d+", "N", part)


def read_everything(folder: Path) -> tuple[list[str], list[str]]:
    """The faults of the checks that read the files, and what they list besides."""
    lines = [run_check(name, CHECKS[name], Results(folder, folder / "trajectories.zarr", 0, 0)) for name in READING]
    return [fault for line in lines for fault in line.faults], [note for line in lines for note in line.notes]


def list_without_checksum(folder: Path) -> list[str]:
    """What is listed besides that carries no checksum though it could."""
    allowed = tuple(f"{folder}/{pattern}: no checksum: " for pattern in NO_CHECKSUM)
    return [note for note in read_everything(folder)[1] if not note.startswith(allowed)]


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """`path` with one bit changed, for as long as this lasts."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(content)


def choose_bits(path: Path, count: int, rng: random.Random) -> list[int]:
    """A bit near the start, where formats say what they are, then bits anywhere."""
    size = 8 * path.stat().st_size
    return [rng.randrange(min(size, 8 * 64)), *(rng.randrange(size) for _ in range(count - 1))]


def flip_every_kind(folder: Path, count: int, judge: Callable[[Path, list[str]], str]) -> dict[str, str]:
    """Flip `count` bits, one after the other, in files of each kind that is to be checksummed for.

    judge: what is wrong with the faults that were found of a damaged file, or an empty string. Gives these by kind.
    """
    rng, wrong = random.Random(0), {}
    for kind, paths in list_kinds(folder).items():
        if carries_none(kind):
            continue
        path = rng.choice(paths)
        for bit in choose_bits(path, count, rng):
            with flipped(path, bit):
                note = judge(path, read_everything(folder)[0])
            if note:
                wrong[kind] = f"{path}, bit {bit}: {note}"
    return wrong


def carries_none(kind: str) -> bool:
    """Whether files of this kind are no results."""
    parts = kind.split("/")
    return bool({"logs", "benchmarks", "scratch"} & set(parts)) or parts[-1].startswith(".") or kind.endswith(".lock")


def read_cure(fault: str) -> tuple[set[Path], Path] | None:
    """What a line about a damaged file says to delete, and the target to make again; None if it says no such thing.

    Where it says to run again, what is to be deleted is the target.
    """
    found = CURE.fullmatch(fault)
    if found is None:
        return None
    paths = [Path(path) for path in re.findall(r"/[^\s;:,()]+", fault)]
    what = {"it": paths[:1], "both": paths[:2]}.get(found["what"], [Path(found["what"])])
    gone = [*what, *map(Path, filter(None, [found["more"]]))]
    return set(gone), Path(found["target"] or gone[0])


def read_target(fault: str, path: Path) -> Path | None:
    """The target that a line says to make again, if it is about the damaged `path`, or the folder it is the seal of."""
    cure = read_cure(fault)
    return cure[1] if cure and (str(path) in fault or fault.startswith(f"{path.parent} ")) else None
