"""Learned rounding compared with plain torch: time and error of equal iterations, memory, and a large block."""

import json
import math
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tools.benchmarks.kernels import name_products
from tools.benchmarks.learners import CHUNK
from tools.benchmarks.process import Process
from tools.benchmarks.table import Row, call, format_table
from tools.benchmarks.workflow import run_snakemake, write_config
from tools.small_results.presets import PAPER

BLOCK = "mm_01"
ITERATIONS = 300
LEARNERS = ("ours", "torch", "torch_two_threads")
# 256 points of real trajectories, quickly made
DATA = PAPER | {"trajectories": 40, "steps": 25, "selected_steps": 25, "capture_points": 256, "capture_shards": 1}
LARGE_DEPTH, LARGE_ITERATIONS, LARGE_ROWS, PAIR = 24, 20_000, 16, 2


def make_rows(folder: Path) -> tuple[Path, Path]:
    """The parameters of BLOCK's job, and the captured rows."""
    config = write_config(folder, **DATA, engine="adaround", adaround_iterations=ITERATIONS)
    results = folder / "results"
    params, rows = results / "params/optimise_block" / f"{BLOCK}.json", results / "block_inputs.zarr/00"
    run_snakemake(config, "--notemp", str(params), str(rows), cores=2)
    return params, rows


def measure_learners(params: Path, rows: Path) -> list[Row]:
    """The loops take turns by chunks of iterations; a quotient is the median of those of single turns."""
    seconds: dict[str, list[float]] = {name: [] for name in LEARNERS}
    with ExitStack() as stack:
        learners = {
            name: Process(stack, "tools.benchmarks.learners", name, str(params), str(rows)) for name in LEARNERS
        }
        for _ in range(ITERATIONS // CHUNK):
            for name, learner in learners.items():
                learner.start()
                seconds[name].append(float(learner.read()) / CHUNK)
        errors = {name: sum(json.loads(learner.finish()).values()) for name, learner in learners.items()}
    label = f"AdaRound of {BLOCK}, 32 rows"
    used = {name: name_products(name) for name in LEARNERS}
    result = [
        Row(f"{label}, {name}", 1000 * statistics.median(values), "ms", kernels=used[name])
        for name, values in seconds.items()
    ]
    for base, target in (("torch", "<= 1"), ("torch_two_threads", "")):
        quotients = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds[base], strict=True)]
        both = f"{used['ours']} / {used[base]}"
        result.append(Row(f"{label}, ours / {base}", statistics.median(quotients), "x", target, both))
    for name in LEARNERS[:2]:
        decibels = -10 * math.log10(errors[name])
        result.append(
            Row(f"{BLOCK} after {ITERATIONS} iterations, held out, {name}", decibels, "dB", kernels=used[name])
        )
    return result


def measure_memory(folder: Path, params: Path, rows: Path) -> Row:
    """The whole job of one block, as the workflow starts it."""
    arguments = {
        "--params": params,
        "--inputs": rows,
        "--scratch": folder / "scratch",
        "--out": folder / f"{BLOCK}.safetensors",
    }
    flat = [part for pair in arguments.items() for part in pair]
    printed = call("-m", "tools.benchmarks.peak_memory", "workflow_scripts.blocks.optimise_block", *flat).stdout
    return Row(f"optimise_block, {BLOCK}, peak", float(printed.split()[-1]), "MB", "<= 1000")


def measure_large() -> list[Row]:
    """A block of SD3 Medium's size."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    seconds, peak = map(float, call("-m", "tools.benchmarks.large_block", env=environment).stdout.split()[-2:])
    hours = seconds * LARGE_ROWS / PAIR * LARGE_ITERATIONS * LARGE_DEPTH / 3600
    return [
        Row("a block of SD3 Medium's size, an iteration of 2 rows", seconds, "s"),
        Row("a block of SD3 Medium's size, peak", peak, "MB"),
        Row("24 such blocks, 20,000 iterations of 16 rows, one CPU core", hours, "h"),
    ]


def measure() -> list[Row]:
    """All rows of this file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params, rows = make_rows(folder)
        return [*measure_learners(params, rows), measure_memory(folder, params, rows), *measure_large()]


if __name__ == "__main__":
    print(format_table(measure()))
