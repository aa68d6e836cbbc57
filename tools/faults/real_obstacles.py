"""Writes that the system rejects: a full disk, a read-only disk, the folder of another user, a limit on sizes.

The first three need root: a file system in memory is mounted, and a job is started as another user. Unavailable kinds
are named and skipped.
"""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from tools.faults.outcomes import Outcome
from tools.faults.undisturbed import MARK, Job, Run, copy_results, delete, run_command, run_quick
from tools.faults.writes import judge

# One job of each of these: they write in all the ways there are.
RULES = (
    "collect_shard",
    "gather_calibration",
    "export_npz",
    "export_samples",
    "collect_activations",
    "capture_blocks",
    "fold_model",
    "measure_costs",
    "search_bits",
    "optimise_block",
    "round_shared",
    "distil",
    "pack_weights",
    "write_quant_config",
    "generate_images",
    "plot_blocks",
)
NOBODY = 65534
KIB = 1024
ROOMS = (0, 8 * KIB, 40 * KIB)  # bytes left on the disk
LIMITS = (100, 3000)  # bytes of a file, at most

Obstruct = Callable[[Run, Job, Path], Iterator[tuple[str, str]]]


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Every obstacle that can be had here, in the way of one job of each of `RULES`; chance has no part in it."""
    yield from islice(obstruct_jobs(run_quick(folder / "undisturbed"), folder), count)


def obstruct_jobs(run: Run, folder: Path) -> Iterator[Outcome]:
    """Every obstacle in the way of every job."""
    for obstruct in (limit_sizes, fill_disk, forbid_writing, become_another):
        if reason := find_hindrance(obstruct):
            print(f"writes: {obstruct.__name__} skipped, since {reason}")
            continue
        for rule in RULES:
            job = next(job for job in run.jobs if job.rule == rule)
            for fault, note in obstruct(run, job, folder):
                yield Outcome("writes", fault, rule, not note, note)


def find_hindrance(obstruct: Obstruct) -> str:
    """Why an obstacle cannot be had here, or an empty string."""
    if obstruct is limit_sizes:
        return ""
    if os.geteuid() != 0:
        return "it needs root"
    if obstruct is become_another:
        return "" if shutil.which("setpriv") else "there is no setpriv"
    try:
        with tempfile.TemporaryDirectory() as folder, mount_memory(Path(folder)):
            return ""
    except (OSError, subprocess.CalledProcessError):
        return "nothing can be mounted"


def limit_sizes(run: Run, job: Job, folder: Path) -> Iterator[tuple[str, str]]:
    """No file may grow beyond a limit."""
    for limit in LIMITS:
        results = folder / "limited"
        delete(results)
        copy_results(run.results, results, job.written)
        limits = (limit, resource.RLIM_INFINITY)
        failed = run_command(
            job.fill_in(results), preexec_fn=lambda limits=limits: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        )
        note = judge(run, job, results, failed)
        yield "a limit on file sizes", note and f"{limit} bytes: {note}"


def fill_disk(run: Run, job: Job, folder: Path) -> Iterator[tuple[str, str]]:
    """A file system in memory has no room left, or little."""
    for room in ROOMS:
        with mount_memory(folder / "memory") as mounted:
            results = mounted / "results"
            copy_over(run.results, results, job.written)
            fill(mounted / "filler", room)
            failed = run_command(job.fill_in(results))
            (mounted / "filler").unlink()
            note = judge(run, job, results, failed)
            yield "a full disk, mounted", note and f"{room} bytes left: {note}"


def forbid_writing(run: Run, job: Job, folder: Path) -> Iterator[tuple[str, str]]:
    """The file system of the results is mounted to be read only."""
    with mount_memory(folder / "memory") as mounted:
        results = mounted / "results"
        copy_over(run.results, results, job.written)
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        failed = run_command(job.fill_in(results))
        subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
        yield "a read-only disk, mounted", judge(run, job, results, failed)


def become_another(run: Run, job: Job, folder: Path) -> Iterator[tuple[str, str]]:
    """The job runs as a user who may not write where the results are."""
    results = folder / "owned"
    delete(results)
    copy_results(run.results, results, job.written)
    for place in (folder, *results.parents):
        if place.stat().st_uid == os.geteuid() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o055)
    other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    failed = run_command([*other, *job.fill_in(results)])
    yield "another user's folder", judge(run, job, results, failed)


@contextmanager
def mount_memory(place: Path) -> Iterator[Path]:
    """A small file system in memory, mounted at `place` for as long as it is needed."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "none", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def copy_over(results: Path, target: Path, without: list[str]) -> None:
    """Copy results to another file system, where no link reaches; logs are left out."""
    shutil.copytree(results, target, ignore=shutil.ignore_patterns("logs", "benchmarks", "scratch", MARK))
    for name in without:
        delete(target / name)


def fill(path: Path, room: int) -> None:
    """Fill the file system of `path` except `room` bytes."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4 * KIB))
        except OSError:
            file.truncate(max(0, file.tell() - room))
