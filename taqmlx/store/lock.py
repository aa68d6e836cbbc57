"""Exclusive file lock, released when its process ends."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_lock(path: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is created if absent.

    If another process holds it, `announce` is called with one line and this process waits: the holder may be a worker
    that outlived its workflow. The file is never removed; otherwise two processes could hold locks on two files of the
    same name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce(f"{path} is held by another process; waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
