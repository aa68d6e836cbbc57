"""Partial output: a file or folder beside its final path, locked by its writer and renamed when complete.

A killed writer leaves its partial behind, but its lock is released. The next writer of the same path removes unlocked
partials and leaves those of other living processes alone.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def hold_partial(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """Create a partial of `path` with `create`, for this process only; it is removed afterwards unless renamed.

    Its name keeps the suffix of `path`, because some writers choose a format by suffix. Partials left by killed writers
    of `path` are removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_partials(path)
    partial, descriptor = _create_locked(path, create)
    try:
        yield partial
    finally:
        _remove(partial)
        os.close(descriptor)


def sweep_partials(path: Path) -> None:
    """Remove partials of `path` left by killed writers."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.partial{re.escape(path.suffix)}")
    for leftover in path.parent.iterdir():
        if name.fullmatch(leftover.name):
            _remove_abandoned(leftover)


def _create_locked(path: Path, create: Callable[[Path], None]) -> tuple[Path, int]:
    """Create a partial of `path`; return it with the descriptor that holds its lock."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial{path.suffix}")
        create(partial)
        # Until it is locked it looks abandoned; if another writer has just removed it, create a new one.
        with suppress(FileNotFoundError):
            descriptor = os.open(partial, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if partial.exists():
                return partial, descriptor
            os.close(descriptor)


def _remove_abandoned(leftover: Path) -> None:
    """Remove a partial, unless a living process holds its lock."""
    with suppress(FileNotFoundError):
        descriptor = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(leftover)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)
