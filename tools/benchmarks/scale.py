"""Ten thousand prompts: the cost of planning, files, memory and the readers of all shards, and its growth.

python -m tools.benchmarks.scale [--folder FOLDER] prints a table and writes results/scale.json. Only the denoiser is
free (`tools/benchmarks/fake_denoiser.py`). With --folder, recorded shards are kept and reused. Times are CPU seconds.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import NamedTuple

import yaml

from tools.commands import find_module

OUT = Path("results/scale.json")
LINEAR = 1.3  # at most this much more than linear; fixed costs make it less
LONGEST_PLAN = 30.0  # seconds
PROMPTS, STEPS, STATISTICS_POINTS = 10_000, 50, 640
# Its loop goes through all jobs that are ready whenever it starts one, of which it weighs 200 (`profiles/default`).
SCHEDULING = "Snakemake's own work for all jobs: s"


class Scale(NamedTuple):
    """A run of `prompts` prompts, one trajectory each, `per_shard` of them a shard."""

    prompts: int
    per_shard: int = 1

    def __str__(self) -> str:
        return f"{self.prompts:,}" + (f" by {self.per_shard}" if self.per_shard > 1 else "")


SCALES = (Scale(PROMPTS // 10), Scale(3 * PROMPTS // 10), Scale(PROMPTS), Scale(PROMPTS, 20))


class Cost(NamedTuple):
    """What a process and those it started took: processor seconds, and the largest memory of one of them in MB.

    This process counts as one of them, so it loads next to nothing.
    """

    processor: float
    memory: float


class Run:
    """A run of one scale, in a folder that Snakemake also keeps its records in."""

    def __init__(self, folder: Path, scale: Scale, **changes):
        self.folder, self.scale = folder, scale
        self.results, self.store = folder / "results", folder / "results" / "trajectories.zarr"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config").exists():
            (folder / "config").symlink_to(Path("config").resolve())
        prompts = folder / "prompts.txt"
        prompts.write_text(
            "".join(f"prompt number {i}: a red circle left of a blue square\n" for i in range(scale.prompts))
        )
        values = {
            "results_dir": "results",
            "prompts": "prompts.txt",
            "trajectories": scale.prompts,
            "prompts_per_shard": scale.per_shard,
            "steps": STEPS,
            "statistics_points": STATISTICS_POINTS,
            "statistics_shards": 1,
            "evaluation_seed": 10**6,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(values | changes))

    def call(self, *arguments: str | Path) -> Cost:
        """Run a module of Python in the folder. Raises RuntimeError, with its last words, if it fails."""
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-m", *map(str, arguments)]
        with tempfile.TemporaryFile("w+") as said:
            process = Popen(command, cwd=self.folder, env=environment, stdout=said, stderr=STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                raise RuntimeError(f"{' '.join(command)} failed:\n{said.read()[-2000:]}")
        memory = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        return Cost(usage.ru_utime + usage.ru_stime, memory)

    def snakemake(self, *arguments: str) -> Cost:
        """Run Snakemake for targets, which come first, with options."""
        options = ("--cores", "1", "--snakefile", Path("Snakefile").resolve(), "--configfile", "config.yaml")
        return self.call("snakemake", *arguments, *options, "--quiet", "all")

    def enter(self, name: str, stage: str, **options: str | Path) -> Cost:
        """Run an entry with the parameters of `stage`."""
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        return self.call(find_module(name), "--params", self.results / "params" / f"{stage}.json", *words)

    def list_shards(self) -> list[Path]:
        """The folders of the store."""
        return sorted(path for path in self.store.iterdir() if path.is_dir())

    @property
    def records(self) -> list[Path]:
        """What Snakemake keeps of each output."""
        return list((self.folder / ".snakemake" / "metadata").rglob("*"))


def measure_making(run: Run) -> dict[str, float]:
    """Planning from nothing, the encodings, and the shards by the fake denoiser, unless they are there."""
    plan = run.snakemake("quant_config", "--dry-run", "--config", "results_dir=nothing")
    found = {"snakemake -n, no results: s": plan.processor, "snakemake -n, no results: MB": plan.memory}
    if not (run.results / "params").exists():
        stages = ("collect_shard", "gather_calibration", "collect_activations", "encode_prompts")
        run.snakemake("results/trajectories.zarr/zarr.json", *(f"results/params/{stage}.json" for stage in stages))
        encodings = {"out": run.results / "conditioning.safetensors", "seal": run.results / "conditioning.json"}
        encode = run.enter("encode_prompts", "encode_prompts", **encodings)
        found |= {"encode_prompts: s": encode.processor, "encode_prompts: MB": encode.memory}
    kept = len(run.list_shards())
    record = run.call("tools.benchmarks.fake_denoiser", run.results)
    if not kept:
        found |= {"all shards, free denoiser: s": record.processor, "all shards, free denoiser: MB": record.memory}
    # Snakemake's records, as if it had run the jobs; what they are made of is not newer than they are.
    touch = run.snakemake("trajectories", "--touch", "--forceall")
    found[SCHEDULING] = touch.processor
    files = [path for path in run.store.rglob("*") if path.is_file()]
    found |= {
        "files in the store": len(files),
        "size of the store: MB": sum(path.stat().st_size for path in files) / 1e6,
    }
    records = [path.stat().st_size for path in run.records]
    return found | {"Snakemake's records": len(records), "size of Snakemake's records: MB": sum(records) / 1e6}


def measure_planning(run: Run) -> dict[str, float]:
    """Planning with everything made, which compares every seal, and with every second shard away."""
    made = run.snakemake("quant_config", "--dry-run")
    aside = run.folder / "aside"
    aside.mkdir(exist_ok=True)
    moved = run.list_shards()[::2]
    for path in moved:
        path.rename(aside / path.name)
    half = run.snakemake("quant_config", "--dry-run")
    for path in moved:
        (aside / path.name).rename(path)
    return {
        "snakemake -n, all shards finished: s": made.processor,
        "snakemake -n, all shards finished: MB": made.memory,
        "snakemake -n, half of the shards finished: s": half.processor,
        "snakemake -n, half of the shards finished: MB": half.memory,
    }


def measure_workers(run: Run) -> dict[str, float]:
    """A worker of one shard, all jobs that read every shard, and what they leave."""
    conditioning, last = run.results / "conditioning.safetensors", run.list_shards()[-1].name
    places = {"conditioning": conditioning, "trajectories": run.store}
    calibration, part = run.results / "calibration.zarr", run.results / "activations" / "shards" / "00.safetensors"
    jobs = {
        "collect_shard, startup": ("collect_shard", "collect_shard"),
        "gather_calibration": ("gather_calibration", "gather_calibration"),
        "collect_activations": ("collect_activations", "collect_activations"),
        "write_manifest": ("write_manifest", "collect_shard"),
        "verify_trajectories": ("verify_trajectories", "collect_shard"),
    }
    options = {
        "collect_shard": {
            **{"conditioning": conditioning, "shard": last, "out": run.store / last},
            "scratch": run.results / "scratch" / last,
        },
        "gather_calibration": places | {"out": calibration},
        "collect_activations": {"calibration": calibration, "shard": "00", "out": part},
        "write_manifest": {"trajectories": run.store, "out": run.results / "manifest.json"},
        "verify_trajectories": places,
    }
    found: dict[str, float] = {}
    shutil.rmtree(calibration, ignore_errors=True)  # a finished one would be left alone
    for label, (entry, stage) in jobs.items():
        cost = run.enter(entry, stage, **options[entry])
        found |= {f"{label}: s": cost.processor, f"{label}: MB": cost.memory}
    everything = run.call("workflow_scripts.tools.verify_dataset", "--results", run.results, "--replay", "0")
    return found | {
        "verify_dataset without replay: s": everything.processor,
        "verify_dataset without replay: MB": everything.memory,
        "manifest.json: MB": (run.results / "manifest.json").stat().st_size / 1e6,
    }


def measure(run: Run) -> dict[str, float]:
    """Everything of one scale, by name and unit."""
    return measure_making(run) | measure_planning(run) | measure_workers(run)


def measure_growth(values: dict[Scale, float]) -> float | None:
    """How much more than linearly a value grows from the first scale to the last of as many prompts a shard."""
    scales = [scale for scale in values if scale.per_shard == 1]
    if len(scales) < 2:
        return None
    first, last = scales[0], scales[-1]
    return values[last] / values[first] / (last.prompts / first.prompts)


def format_value(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_table(found: dict[Scale, dict[str, float]]) -> str:
    """A Markdown table of all values by scale; the last column is the growth over linear growth."""
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    lines = ["| prompts | " + " | ".join(map(str, found)) + " | over linear |", "|---|" + "---:|" * (len(found) + 1)]
    for name in names:
        values = {scale: row[name] for scale, row in found.items() if name in row}
        growth = measure_growth(values)
        shown = [format_value(values[scale]) if scale in values else "" for scale in found]
        lines.append(f"| {name} | {' | '.join(shown)} | {'' if growth is None else f'{growth:.2f}'} |")
    return "\n".join(lines)


def list_failures(found: dict[Scale, dict[str, float]]) -> list[str]:
    """What grows faster than linearly, Snakemake's loop apart, or takes too long to plan."""
    names = dict.fromkeys(name for values in found.values() for name in values if name != SCHEDULING)
    grown = {name: measure_growth({s: row[name] for s, row in found.items() if name in row}) for name in names}
    failures = [f"{name}: {growth:.2f} times linear" for name, growth in grown.items() if growth and growth > LINEAR]
    for scale, row in found.items():
        slow = {k: v for k, v in row.items() if k.startswith("snakemake -n") and k.endswith("s") and v > LONGEST_PLAN}
        failures += [f"{name}, {scale} prompts: {value:.0f}, not {LONGEST_PLAN:.0f}" for name, value in slow.items()]
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep what is made here (2 GB on disk)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder, found = (arguments.folder or Path(temporary)).resolve(), {}
        for scale in SCALES:
            found[scale] = measure(Run(folder / f"{scale.prompts}-{scale.per_shard}", scale))
            print(format_table(found), flush=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({str(scale): values for scale, values in found.items()}, indent=1) + "\n")
    failures = list_failures(found)
    print("\n".join(failures) or f"nothing grows more than {LINEAR} times linearly")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
