"""Peak memory of gathering for growing numbers of synthetic trajectories, each size in its own process.

python -m tools.benchmarks.gather_memory TRAJECTORIES FOLDER prints the peak resident memory of one size, in MB.
"""

import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taqmlx.numerics.calibration_points import select_steps, shuffle_points
from taqmlx.store.calibration import list_specs
from taqmlx.store.gather import Selection, gather_points
from taqmlx.store.trajectories import Trajectory
from taqmlx.store.zarr_arrays import create_group
from tools.benchmarks.table import Row, call

TRAJECTORIES, STEPS, SELECTED, LATENT_SHAPE = 256, 100, 25, (8, 8, 16)
SCALES = (1, 10, 50)


def make_trajectories(count: int) -> Iterator[Trajectory]:
    """Noise that differs from one trajectory to the next, quickly made."""
    noise = np.random.default_rng(0).normal(size=(2 * STEPS, *LATENT_SHAPE)).astype(np.float16)
    for number in range(count):
        first = number % STEPS
        yield Trajectory(number, number % 20, noise[first : first + STEPS], noise[first])


def gather(count: int, folder: Path) -> None:
    """Gather the points of `count` trajectories."""
    steps = select_steps(STEPS, SELECTED)
    levels = np.linspace(1, 0, SELECTED, dtype=np.float32)
    selection = Selection(steps, levels * 1000, levels, shuffle_points(count * SELECTED, 0))
    specs = list_specs(count * SELECTED, LATENT_SHAPE, (20, 2, 20, 128), (20, 2, 128))
    create_group(folder / "group", list(specs.values()))
    gather_points(folder / "flat", make_trajectories(count), selection, folder / "group", specs)


def read_peak() -> float:
    """This process's largest resident memory so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the process that started this one held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def measure() -> list[Row]:
    """The peak at each scale, and how it grows."""
    peaks = {}
    for scale in SCALES:
        with tempfile.TemporaryDirectory() as folder:
            count = str(scale * TRAJECTORIES)
            peaks[scale] = float(call("-m", "tools.benchmarks.gather_memory", count, folder).stdout.split()[-1])
    rows = [Row(f"gather, {scale * TRAJECTORIES} trajectories, peak", peak, "MB") for scale, peak in peaks.items()]
    growth = peaks[SCALES[-1]] / peaks[1]
    return [*rows, Row(f"gather, peak at {SCALES[-1]}x over that at 1x", growth, "x", "<= 1.1")]


if __name__ == "__main__":
    gather(int(sys.argv[1]), Path(sys.argv[2]))
    print(read_peak())
