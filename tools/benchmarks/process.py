"""A process that works on request, so that several can take turns."""

import os
import subprocess
import sys
from contextlib import ExitStack


class Process:
    """A module of the benchmarks in a process of its own: it answers each line that it reads by one line.

    reference_blas: whether MLX stays on the BLAS it was installed with.
    """

    def __init__(self, stack: ExitStack, module: str, *arguments: str, reference_blas: bool = False):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MLX_REFERENCE_BLAS": str(int(reference_blas))}
        command = [sys.executable, "-m", module, *arguments]
        pipe = subprocess.PIPE
        self.process = stack.enter_context(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)
        )
        stack.callback(self.process.stdin.close)
        self.read()

    def start(self) -> None:
        """Ask for one run."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Ask for no more, and read its last words."""
        self.process.stdin.close()
        return self.read()

    def read(self) -> str:
        """Its next answer. Raises RuntimeError if it ended instead; its own words are on standard error."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[1:])} ended early")
        return line
