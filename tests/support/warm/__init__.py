"""A Python whose processes begin with everything imported.

Most of what a short job takes is the import of MLX, Zarr and their like. Here a server imports them once; a program is
called as Python is, and for a command, a benchmark or Snakemake the server forks a process that runs it with the
caller's words, folder, environment and open files. Snakemake's jobs are such processes too, as it
looks for Python where it was started. Who would import something else (in another folder, with other BLAS kernels,
another PYTHONPATH, a library loaded first) gets Python itself; a folder with a copy of the project may be said to
import the same.
"""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent.resolve()
# What decides on what an import does.
TELLING = (
    *("PYTHONPATH", "LD_PRELOAD", "HF_HUB_CACHE"),
    *("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "MLX_REFERENCE_BLAS"),
)
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "MLX_REFERENCE_BLAS": "0"}
SCRIPT = """#!/bin/sh
case "$1 $2" in "-m snakemake" | "-m workflow_scripts."* | "-m src."* | "-m tools.benchmarks"*)
    if [ "{telling}" = {told} ]; then exec {python} -IS {client} {address} "$PWD" "$0" "$@"; fi
esac
exec {python} "$@"
"""


@contextmanager
def start_warm_python(
    project: Path, environment: Mapping[str, str] | None = None, in_copies: bool = False
) -> Iterator[str]:
    """Start a server for the project in a folder, with `environment` besides that of this process.

    With `in_copies` callers in every folder get its processes: copies of the project, the same to the byte.
    Gives what is called in place of `sys.executable`: that itself elsewhere than on Linux, as Metal survives no fork.
    """
    if sys.platform != "linux":
        yield sys.executable
        return
    surroundings = os.environ | ONE_THREAD | dict(environment or {})
    with tempfile.TemporaryDirectory(prefix="warm-") as folder, socket.socket(socket.AF_UNIX) as listener:
        address = Path(folder) / "server"
        listener.bind(str(address))
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), str(listener.fileno())],
            cwd=project,
            env=surroundings,
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        listener.close()  # so that nobody waits for a server that is no more
        try:
            yield str(write_script(address, project, surroundings, in_copies))
        finally:
            server.communicate(timeout=600)  # it ends with its standard input


def write_script(address: Path, project: Path, surroundings: Mapping[str, str], in_copies: bool) -> Path:
    """The program beside the server's address, for a shell that starts in a millisecond."""
    told = [surroundings.get(name, DEFAULTS.get(name, "")) for name in TELLING]
    telling = " ".join(f"${{{name}-{DEFAULTS.get(name, '')}}}" for name in TELLING)
    if not in_copies:
        telling, told = f"$PWD {telling}", [project.resolve().as_posix(), *told]
    places = {"told": " ".join(told), "python": sys.executable, "client": HERE / "client.py", "address": address}
    program = address.with_name("python")
    program.write_text(
        SCRIPT.format(telling=telling, **{name: shlex.quote(str(place)) for name, place in places.items()})
    )
    program.chmod(0o755)
    return program
