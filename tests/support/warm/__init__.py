"""A Python whose processes begin with everything imported.

Most of what a short job takes is the import of MLX, Zarr and their like. Here a server imports them once; `python` in
`WarmPython.folder` is called as Python is, and for a module of the project or Snakemake the server forks a process that
runs it with the caller's words, folder, environment and open files. Snakemake's jobs are such processes too, as it
looks for Python where it was started. Who would import something else (in another folder, with other BLAS kernels,
another PYTHONPATH) gets Python itself.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent.resolve()
# What decides on what an import does.
TELLING = ("PYTHONPATH", "HF_HUB_CACHE", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "MLX_REFERENCE_BLAS")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
SCRIPT = """#!/bin/sh
case "$1 $2" in "-m snakemake" | "-m workflow_scripts."* | "-m src."*)
    if [ "$PWD {telling}" = "{told}" ]; then exec '{python}' -IS '{client}' '{address}' "$PWD" "$0" "$@"; fi
esac
exec '{python}' "$@"
"""


class WarmPython:
    """A server for the project in `project`, with `environment` besides that of this process. A context manager."""

    def __init__(self, project: Path, environment: Mapping[str, str] | None = None):
        self.project = project.resolve()
        self.environment = os.environ | ONE_THREAD | dict(environment or {})

    @property
    def python(self) -> str:
        """What to start in place of `sys.executable`."""
        return str(self.folder / "python")

    def __enter__(self) -> "WarmPython":
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        address = self.folder / "server"
        self.write_script(address)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(64)
            self.server = subprocess.Popen(
                [sys.executable, str(HERE / "server.py"), str(listener.fileno())],
                cwd=self.project,
                env=self.environment,
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
        return self

    def __exit__(self, *_) -> None:
        self.server.communicate(timeout=60)  # it ends with its standard input
        shutil.rmtree(self.folder)

    def write_script(self, address: Path) -> None:
        """`python`, in a shell that starts in a millisecond."""
        told = [self.project.as_posix(), *(self.environment.get(name, "") for name in TELLING)]
        text = SCRIPT.format(
            telling=" ".join(f"${{{name}-{ONE_THREAD.get(name, '')}}}" for name in TELLING),
            told=" ".join(told),
            python=sys.executable,
            client=HERE / "client.py",
            address=address,
        )
        path = self.folder / "python"
        path.write_text(text)
        path.chmod(0o755)
