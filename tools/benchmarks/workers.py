"""One and two workers: start-up time, speed-up by a second worker, cost of checkpoints."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx
import numpy as np

from taqmlx.models.catalogue import find_model
from taqmlx.numerics import schedule
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.store.conditioning import list_inputs, open_conditioning
from taqmlx.store.parameters import read_parameters
from taqmlx.store.recorder import Recorder
from taqmlx.store.sealed_job import SealedJob
from tools.benchmarks.table import Row, call, time_interleaved
from tools.benchmarks.workflow import run_snakemake, write_config
from workflow_scripts.trajectories import collect_shard


class Bench:
    """Workers on the prompts of the default configuration, with results in `folder`."""

    def __init__(self, folder: Path, **changes):
        config = write_config(folder, **changes)
        self.results = folder / "results"
        targets = ["trajectories.zarr/zarr.json", "conditioning.safetensors", "params/collect_shard.json"]
        run_snakemake(config, *(str(self.results / target) for target in targets))
        self.runs = 0

    def command(self, shard: str) -> list[str]:
        """A worker for `shard`, with an output of its own each time."""
        self.runs += 1
        out = self.results / "runs" / f"{self.runs:04d}"
        arguments = {
            "--params": self.results / "params" / "collect_shard.json",
            "--conditioning": self.results / "conditioning.safetensors",
            "--shard": shard,
            "--out": out,
            "--scratch": self.results / "scratch" / out.name,
        }
        return [
            "-m",
            "workflow_scripts.trajectories.collect_shard",
            *(str(x) for pair in arguments.items() for x in pair),
        ]


def measure_start(folder: Path) -> Row:
    """A whole worker for one step of one trajectory, its end included."""
    bench = Bench(folder, trajectories=2, steps=1, selected_steps=1)  # a shard has one
    seconds = time_interleaved({"start": lambda: call(*bench.command("000"))}, 7)
    return Row("a worker from its start to one recorded step", seconds["start"], "s", "<= 1.5")


def measure_two_workers(folder: Path) -> Row:
    """Two shards one after the other against both at once."""
    bench = Bench(folder)

    def run_in_turn() -> None:
        for shard in ("000", "001"):
            call(*bench.command(shard))

    def run_at_once() -> None:
        workers = [
            subprocess.Popen([sys.executable, *bench.command(shard)], stderr=subprocess.DEVNULL)
            for shard in ("000", "001")
        ]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            raise RuntimeError("a worker failed")

    seconds = time_interleaved({"turn": run_in_turn, "once": run_at_once}, 5)
    return Row("two workers over one", seconds["turn"] / seconds["once"], "x", ">= 1.8")


def measure_resumability(folder: Path) -> Row:
    """Recording a shard with its chunks, checkpoints and final verification against only advancing it."""
    bench = Bench(folder)
    stage = read_parameters(CollectShard, bench.results / "params" / "collect_shard.json")
    parameters = plan.select_shard(stage, "000")
    conditioning = open_conditioning(bench.results / "conditioning.safetensors", stage.encode())
    model = find_model(parameters.model)
    sigmas = model.compute_sigmas(parameters.steps)
    begin = collect_shard.bind_beginning(model, conditioning, parameters, sigmas)
    inputs = list_inputs(conditioning, parameters.rows) | {"latent_shape": list(model.LATENT_SHAPE)}
    levels = schedule.list_levels(sigmas)

    def advance_only() -> None:
        latents, advance = begin(np.array(parameters.rows))
        for step in range(parameters.steps):
            latents = advance(latents, step)
            mx.eval(latents)

    def record() -> None:
        job = SealedJob(folder / f"{time.monotonic_ns()}", folder / "scratch", parameters.encode(), inputs)
        with job.hold():
            recorder = Recorder(job, levels)
            recorder.start()
            collect_shard.record_shard(recorder, None, begin)
            recorder.publish()

    seconds = time_interleaved({"record": record, "advance": advance_only}, 7)
    return Row("what being resumable costs", 100 * (seconds["record"] / seconds["advance"] - 1), "%", "<= 2")


def measure() -> list[Row]:
    """All rows of this file."""
    with tempfile.TemporaryDirectory() as name:
        parts = [Path(name) / part for part in ("start", "two", "resume")]
        for part in parts:
            part.mkdir()
        return [measure_start(parts[0]), measure_two_workers(parts[1]), measure_resumability(parts[2])]
