"""Trajectory-steps per second: DiffusionKit as installed and with a fast BLAS, this project, and a torch version."""

import statistics
from contextlib import ExitStack
from pathlib import Path

from taqmlx.store.files import write_json
from tools.benchmarks.kernels import name_products
from tools.benchmarks.process import Process
from tools.benchmarks.samplers import TRAJECTORY_STEPS
from tools.benchmarks.table import Row, as_records, format_table

ROUNDS = 7
SAMPLERS = "tools.benchmarks.samplers"
# Label: the sampler, how many processes of it at once, and whether MLX stays on the BLAS it was installed with.
RUNS = {
    "DiffusionKit as installed": ("diffusionkit", 1, True),
    "DiffusionKit, fast BLAS": ("diffusionkit", 1, False),
    "ours, 1 worker": ("ours", 1, False),
    "ours, 2 workers": ("ours", 2, False),
    "torch twin, 1 worker": ("torch", 1, False),
    "torch twin, 2 workers": ("torch", 2, False),
}
TARGETS = (
    ("ours, 1 worker", "DiffusionKit as installed", ">= 10"),
    ("ours, 2 workers", "DiffusionKit as installed", ">= 20"),
    ("ours, 1 worker", "torch twin, 1 worker", ">= 1"),
    ("ours, 2 workers", "torch twin, 2 workers", ">= 1"),
)


def measure_rate(name: str, samplers: list[Process]) -> float:
    """Trajectory-steps per second of these samplers at once."""
    for sampler in samplers:
        sampler.start()
    seconds = [float(sampler.read()) for sampler in samplers]
    return TRAJECTORY_STEPS[name] * len(samplers) / max(seconds)


def measure_rates() -> dict[str, list[float]]:
    """The rates of every run; the runs take turns, so that a drifting machine is fair to all."""
    rates: dict[str, list[float]] = {label: [] for label in RUNS}
    with ExitStack() as stack:
        samplers = {
            label: [Process(stack, SAMPLERS, name, reference_blas=blas) for _ in range(count)]
            for label, (name, count, blas) in RUNS.items()
        }
        for _ in range(ROUNDS):
            for label, (name, _, _) in RUNS.items():
                rates[label].append(measure_rate(name, samplers[label]))
    return rates


def measure() -> list[Row]:
    """All rows of this file; a quotient is the median of those of single rounds."""
    rates = measure_rates()
    used = {label: name_products(name, reference) for label, (name, _, reference) in RUNS.items()}
    rows = [Row(label, statistics.median(values), "steps/s", kernels=used[label]) for label, values in rates.items()]
    for label, base, target in TARGETS:
        quotients = [ours / theirs for ours, theirs in zip(rates[label], rates[base], strict=True)]
        both = f"{used[label]} / {used[base]}"
        rows.append(Row(f"{label} / {base}", statistics.median(quotients), "x", target, both))
    return rows


def main() -> None:
    rows = measure()
    print(format_table(rows))
    write_json(Path("results/speed.json"), as_records(rows))


if __name__ == "__main__":
    main()
