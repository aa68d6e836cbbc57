"""A lock that one process holds at a time and that dies with its holder."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_lock(path: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Hold the exclusive lock of the file `path`, made if need be.

    If another process holds it, `announce` gets one line and this one waits: the other may be a worker that outlived
    the workflow that started it. The file stays; were it removed, two processes could hold two locks of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce(f"{path} is held by another process; waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
