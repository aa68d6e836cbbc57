"""Rows of measurements and their table."""

import operator
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from taqmlx.runtime.blas import name_kernels

_COMPARISONS = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Row:
    """One measurement; `target` is like `>= 10` or empty, when there is nothing to reach.

    `kernels` names what multiplied the matrices: the BLAS kernels of MLX unless given.
    """

    name: str
    value: float
    unit: str
    target: str = ""
    kernels: str = field(default_factory=name_kernels)

    @property
    def verdict(self) -> str:
        """`ok`, `missed`, or nothing where nothing was asked."""
        if not self.target:
            return ""
        comparison, bound = self.target.split()
        return "ok" if _COMPARISONS[comparison](self.value, float(bound)) else "missed"


def format_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    lines = [f"{'measurement':<64}{'value':>10} {'unit':<11}{'target':<10}{'':<7}BLAS kernels"]
    lines += [f"{r.name:<64}{r.value:>10.3g} {r.unit:<11}{r.target:<10}{r.verdict:<7}{r.kernels}" for r in rows]
    return "\n".join(lines)


def as_records(rows: Sequence[Row]) -> dict[str, dict]:
    """The rows as JSON records by name."""
    return {row.name: asdict(row) | {"verdict": row.verdict} for row in rows}


def time_interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run; they take turns (A B A B ...), so that a drifting machine is fair to all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def call(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
    """Run a Python module or script with this Python; its words are shown only when it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} failed:\n{done.stdout}")
    return done
