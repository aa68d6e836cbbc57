"""Preflight checks of memory and disk, made before a job computes."""

import logging
import shutil
from pathlib import Path

import psutil

from taqmlx.store.errors import UserError

log = logging.getLogger("taqmlx")


def check_memory(needed: int, job: str, advice: str) -> None:
    """Log a warning if `job` needs more bytes than are available; raise UserError if more than the machine has."""
    memory = psutil.virtual_memory()
    if needed > memory.total:
        raise UserError(f"{job} takes about {needed / 1e9:.1f} GB of memory, of {memory.total / 1e9:.1f} GB; {advice}")
    if needed > memory.available:
        log.warning(f"{job} takes about {needed / 1e9:.1f} GB of memory, and {memory.available / 1e9:.1f} GB are free")


def check_disk(folder: Path, needed: int, advice: str) -> None:
    """Raise UserError if the disk of `folder` has less than `needed` bytes free."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"{folder}: {needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; make room, or {advice}"
        )
