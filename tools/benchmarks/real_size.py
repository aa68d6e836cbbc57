"""The workflow at the true size of Stable Diffusion 3 Medium with random weights: time and peak memory of every job.

`python -m tools.benchmarks.real_size --folder FOLDER` makes a checkpoint (4.3 GB, see `real_checkpoint`) and random
encodings of the true shapes, then runs the workflow's entries in sequence, each in its own process: a trajectory of 2
steps for one prompt, its calibration points, statistics, captured rows, the costs of one block's bits, every block (one
with learned rounding), distillation, the packed checkpoint and its check, and pictures. It needs 16 GB of memory and
15 GB of disk. Entries in `record.json` of the results are not run again.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from huggingface_hub import constants

import taqmlx  # noqa: F401  before MLX, for its BLAS
from taqmlx.models.catalogue import find_model
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.runtime.entry import build_parser, run
from taqmlx.store.conditioning import write_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from tools.benchmarks.encoding_memory import make_encodings
from tools.benchmarks.entry_run import LEARNED, Run
from tools.benchmarks.real_checkpoint import SIZES, write_checkpoint
from tools.commands import find_module

PROMPTS = ["a photo of a tabby cat"]
SENSITIVE = "mm_22"  # its sensitivity is measured; few blocks follow, which keeps it short
# The search for bits takes a few layers at a time; the gradients of the first block pass all others.
SEARCHED = [{"layers": "*", "bits": 16}, {"layers": "mm_00.*", "bits": 4, "range": "absmax"}]
CONFIG = {
    "model": "sd3-medium",
    "trajectories": 1,
    "steps": 2,
    "selected_steps": 2,
    "batch_size": 1,
    "statistics_shards": 1,
    "capture_points": 2,
    "capture_shards": 1,
    "held_out": 0.5,
    "adaround_batch": 2,
    "search_points": 2,
    "search_probes": 1,
    "bits_per_weight": None,
    "distil": "scales",
    "distil_iterations": 2,
    "distil_batch": 4,
    "ladder_pictures": 1,
    "ladder_steps": 2,
    # A search for the ranges of 85 million weights a block takes minutes, and no more memory.
    "weights": [
        {"layers": "mm_*", "bits": 4, "range": "absmax"},
        {"layers": "*adaLN_modulation", "bits": 8, "range": "absmax"},
    ],
}


class Measurer:
    """Runs entries as the rules do and keeps what each took; `environment` is added to this process's."""

    def __init__(self, path: Path, environment: dict[str, str]):
        self.path, self.environment = path, os.environ | environment
        self.records = read_json(path) if path.exists() else {}

    def call(self, entry: str, **arguments: Any) -> None:
        """Run an entry and record it, unless it is recorded."""
        own = arguments.get("out") if entry == "optimise_block" else None
        label = f"{entry} {own.stem}" if own else entry
        if label in self.records:
            return
        words = ["tools.benchmarks.peak_memory", find_module(entry), *list_words(arguments)]
        start, before = time.monotonic(), read_child_seconds()
        done = subprocess.run([sys.executable, "-m", *words], env=self.environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(f"{label} failed; what it says is above")
        self.records[label] = {
            "wall_s": round(time.monotonic() - start, 1),
            "cpu_s": round(read_child_seconds() - before, 1),
            "peak_mb": round(float(done.stdout.split()[-1])),
        }
        write_json(self.path, self.records)
        print(f"{label:<28} {format_record(self.records[label])}", flush=True)


def read_child_seconds() -> float:
    """Seconds of CPU of all processes this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def list_words(arguments: dict[str, Any]) -> list[str]:
    """An entry's arguments as words of a command line: `folder` is positional, a list several words, false and None
    nothing."""
    words = [str(arguments["folder"])] if "folder" in arguments else []
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        if name != "folder" and values and values not in ([False], [None]):
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def format_record(record: dict[str, float]) -> str:
    """Seconds and megabytes of a record in columns."""
    return f"{record['wall_s']:>9.1f} s {record['cpu_s']:>9.1f} s of CPU {record['peak_mb']:>8.0f} MB"


def run_stages(run: Run) -> None:
    """Every stage, from the trajectory to pictures of the quantized model."""
    run.collect()
    run.observe()
    run.measure_costs(SEARCHED)
    run.quantize()
    run.distil()
    run.call("verify_weights", folder=run.folder / "quantized", blocks=run.folder / "adaround")
    places = {"conditioning": run.conditioning, "quant_config": run.folder / "quant_config.json"}
    run.call(
        "sample_rung", params=run.params("sample_rung"), out=run.folder / "ladder/w4a8/latents.safetensors", **places
    )
    exports = run.folder / "exports"
    run.call("export_latents", params=run.params("collect_shard"), trajectories=run.store, out=exports / "latents")
    run.call("decode_latents", params=run.params("collect_shard"), latents=exports / "latents", out=exports / "images")
    places = {"inputs": [run.rows], "out": run.folder / "sensitivity" / f"{SENSITIVE}.json"}
    run.call("measure_sensitivity", params=run.params("measure_sensitivity"), block=SENSITIVE, **places)


def main(arguments: argparse.Namespace) -> None:
    hub, results = arguments.folder / "hub", arguments.folder / f"{arguments.size}"
    write_checkpoint(hub)
    constants.HF_HUB_CACHE = str(hub)  # of this process, whose environment was read before
    own = {"height": arguments.size, "width": arguments.size, "adaround_iterations": arguments.iterations}
    environment = {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": str(arguments.threads)}
    measurer = Measurer(results / "record.json", environment)
    job = Run(results, CONFIG | own, PROMPTS, measurer.call)
    digests = find_model(job.config["model"], ModelOptions.take(job.config)).file_digests()
    parameters = read_json(job.params("encode_prompts"))
    encodings = make_encodings(len(PROMPTS), SIZES.pooled_text_embed_dim)
    write_conditioning(job.conditioning, parameters, digests, encodings)
    run_stages(job)


if __name__ == "__main__":
    parser = build_parser(__doc__, "folder")
    parser.add_argument("--size", type=int, default=256, help="of the pictures, pixels (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=3, help=f"of {LEARNED} (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the products (default: %(default)s)")
    run(main, parser)
