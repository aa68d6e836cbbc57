"""What is being written: a file or folder beside its place, locked by its writer, renamed into place when it is whole.

A writer that is killed leaves its part behind, and its lock dies with it. So whoever writes the same place next finds
that part unlocked and removes it, and leaves alone what another living process is writing there.
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
    """What `create` makes beside `path`, for this process alone; gone afterwards, unless it was renamed.

    Its name keeps the suffix of `path`, since some writers choose a format by it. What killed writers of `path` left
    is removed first.
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
    """Remove what killed writers of `path` left beside it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.partial{re.escape(path.suffix)}")
    for leftover in path.parent.iterdir():
        if name.fullmatch(leftover.name):
            _remove_abandoned(leftover)


def _create_locked(path: Path, create: Callable[[Path], None]) -> tuple[Path, int]:
    """A new partial of `path`, and the descriptor that holds its lock."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial{path.suffix}")
        create(partial)
        # Until it is locked it looks abandoned; if another writer has just removed it, it is made anew.
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
