"""Run an entry and kill it at a file operation: python tools/faults/kill_at.py LIMIT COUNT MODULE OPTION ...

The process kills itself after LIMIT operations on files it changes. If it ends earlier, it writes the number of its
operations to the file COUNT.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def is_change(event: str, arguments: tuple) -> bool:
    """Whether an audit event is about to change a file."""
    if event == "open":
        flags = arguments[2]
        return isinstance(flags, int) and flags & os.O_ACCMODE != os.O_RDONLY
    return event in CHANGES


def kill_after(limit: int) -> list[int]:
    """Let this process be killed before its change number `limit` + 1. Returns the count."""
    count = [0]

    def watch(event: str, arguments: tuple) -> None:
        if is_change(event, arguments):
            count[0] += 1
            if count[0] > limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return count


if __name__ == "__main__":
    limit, place, module = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    sys.argv = sys.argv[3:]
    count = kill_after(limit)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        total = count[0]
        place.write_text(str(total))
