"""Distillation compared with plain torch: an iteration of the whole model."""

import statistics
from contextlib import ExitStack

from tools.benchmarks.distillers import BATCH, BUILDERS
from tools.benchmarks.kernels import name_products
from tools.benchmarks.process import Process
from tools.benchmarks.table import Row

ROUNDS = 6


def measure() -> list[Row]:
    """The loops take turns; a quotient is the median of those of single turns."""
    seconds: dict[str, list[float]] = {name: [] for name in BUILDERS}
    with ExitStack() as stack:
        loops = {name: Process(stack, "tools.benchmarks.distillers", name) for name in BUILDERS}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                loop.start()
                seconds[name].append(float(loop.read()))
    label = f"distillation, {BATCH} points"
    used = {name: name_products(name) for name in BUILDERS}
    rows = [
        Row(f"{label}, {name}", statistics.median(values), "s", kernels=used[name]) for name, values in seconds.items()
    ]
    for base, target in (("torch", "<= 1"), ("torch_two_threads", "")):
        quotients = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds[base], strict=True)]
        both = f"{used['ours']} / {used[base]}"
        rows.append(Row(f"{label}, ours / {base}", statistics.median(quotients), "x", target, both))
    return rows
