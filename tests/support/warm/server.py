"""Import everything once, then fork a process for each who asks: server.py DESCRIPTOR, in the folder of the project.

It ends when its standard input is closed.
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

COMMANDS = Path("workflow_scripts")
SNAKEMAKE = ("snakemake.cli", "snakemake.workflow", "snakemake.executors.local", "smart_open")
OTHERS = (*SNAKEMAKE, "matplotlib.pyplot", "PIL.Image")


def import_everything() -> None:
    """Import what the commands and Snakemake import; the commands themselves are left to be run."""
    sys.path[0] = str(Path.cwd())
    importlib.import_module("taqmlx")  # before MLX
    names = [".".join(path.with_suffix("").parts) for path in COMMANDS.glob("*/[!_]*.py")]
    for name in [*names, *OTHERS]:
        with suppress(ModuleNotFoundError):  # where there is no PyTorch
            importlib.import_module(name)
    for name in names:
        sys.modules.pop(name, None)
    sys.modules["snakemake.cli"].get_argument_parser()  # imports the plugins
    gc.collect()
    gc.freeze()  # so that no fork goes through all of this, or copies it, in search of garbage


def reap(*_: object) -> None:
    """Let go of the processes that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def serve(listener: socket.socket) -> socket.socket | None:
    """Wait for callers: in a fork the connection to one, in the server nothing, once its standard input is closed."""
    signal.signal(signal.SIGCHLD, reap)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return connection
        connection.close()
    return None


def take_over(connection: socket.socket) -> list[str]:
    """Take the caller's open files, folder and environment; its words."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    text = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    (folder, *words), environment = json.loads(text)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return words


def end_with(connection: socket.socket) -> None:
    """Let this process be ended by SIGIO when the caller is no more there."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC)


def run(words: list[str]) -> int:
    """Run `PYTHON -m MODULE ARGUMENTS` as Python does; its exit status."""
    sys.executable, _, module, *arguments = words
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class Answer:
    """Tells the caller how its process ended, at the end of everything."""

    def __init__(self) -> None:
        self.connection: socket.socket | None = None
        self.code = 1
        # Called last, as the first to be registered; what Python itself would still do is no use here.
        atexit.register(self.give)

    def give(self) -> None:
        if self.connection:
            sys.stdout.flush()
            sys.stderr.flush()
            self.connection.sendall(str(self.code).encode())
            os._exit(self.code)


if __name__ == "__main__":
    answer = Answer()
    import_everything()
    answer.connection = serve(socket.socket(fileno=int(sys.argv[1])))
    if answer.connection:
        words = take_over(answer.connection)
        end_with(answer.connection)
        answer.code = run(words)
