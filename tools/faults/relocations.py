"""Moved results, and a search for the old path in them."""

import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tools.faults.outcomes import Outcome
from tools.faults.working_copy import EVERYTHING, MAIN, TIMES, WorkingCopy, compare_runs, run_quietly

CAMPAIGN = "circumstances"
ELSEWHERE = Path('another place/été "of" 漢字')
IDLE = "Nothing to be done"


def move_copy(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """The working copy under another path: nothing is to be done, and what is deleted is made again there."""
    place = copy.folder.parent / ELSEWHERE
    place.parent.mkdir(exist_ok=True)
    copy.folder.rename(place)
    yield judge_idle("the folder is moved", WorkingCopy(place), wanted, rng)


def copy_copy(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """A copy of it under another path, with the times of its files."""
    place = copy.folder.with_name(ELSEWHERE.name)
    yield judge_idle("the folder is copied", copy.duplicate(place), wanted, rng)


def copy_without_times(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """A copy of which all files are new: what Snakemake then makes again has the same bytes, and no shard is."""
    moved = WorkingCopy(copy.folder.with_name(f"{copy.folder.name} copied"))
    run_quietly("cp", "-r", str(copy.folder), str(moved.folder))
    done = moved.run(*MAIN)
    note = "trajectories are made again" if "rule collect_shard" in done.stdout else ""
    note = done.stdout[-300:] if done.returncode else note or compare_runs(moved.read_tree(), wanted)
    yield Outcome(CAMPAIGN, "the folder is copied with new modification times", "everything", not note, note)


def move_results(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """The results under another name, which the configuration then has."""
    copy.results.rename(copy.folder / "moved")
    copy.configure(results_dir="moved")
    yield judge_idle("the results are moved", WorkingCopy(copy.folder, "moved"), wanted, rng)


def judge_idle(fault: str, copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Outcome:
    """Whether everything is still finished, and a shard deleted now is made again with the same bytes."""
    idle = copy.run(*copy.name_targets(EVERYTHING))
    note = "" if IDLE in idle.stdout else f"not idle: {idle.stdout[-300:]}"
    shard = f"{copy.results.name}/trajectories.zarr/{rng.randrange(8):03d}"
    shutil.rmtree(copy.folder / shard)
    done = copy.run(shard)
    note = note or (done.stdout[-300:] if done.returncode else compare_runs(copy.read_tree(), wanted))
    return Outcome(CAMPAIGN, fault, "everything", not note, note)


def find_paths(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """No file of the results, and nothing packed in one, has the path of the folder, or the machine's name."""
    for kind, paths in sort_by_kind(copy.results).items():
        found = [path for path in paths if any(str(copy.folder).encode() in part for part in read_parts(path))]
        note = f"{found[0].relative_to(copy.results)} has the path" if found else ""
        yield Outcome(CAMPAIGN, "a search for the folder's path in all files", f"*{kind}", not note, note)


def sort_by_kind(results: Path) -> dict[str, list[Path]]:
    """The files of results by their suffix, logs and times left out."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(results.rglob("*")):
        if path.is_file() and path.relative_to(results).parts[0] not in TIMES:
            kinds.setdefault(path.suffix if path.suffix[1:].isalpha() else " (chunks)", []).append(path)
    return kinds


def read_parts(path: Path) -> Iterator[bytes]:
    """A file's bytes, and those it has packed: members of a zip archive, texts of a picture."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if path.suffix == ".png":
        with Image.open(path) as picture:
            yield repr(picture.info).encode()
