"""The workflow as a user runs it: planning, a worker's start, two workers, resumability, the main job, the store."""

import csv
import json
import tempfile
import time
from pathlib import Path

import yaml

from tools.benchmarks.table import Row, call, time_interleaved

CONFIG, QUICK = Path("config/config.yaml"), Path("config/quick.yaml")
WEIGHT_STAGES = ("capture_blocks", "measure_costs", "optimise_block", "round_shared", "distil", "pack_weights")


def write_config(folder: Path, preset: Path = CONFIG, **changes) -> Path:
    """A preset with `changes`, writing its results to `folder`."""
    path = folder / "config.yaml"
    values = yaml.safe_load(preset.read_text()) | {"results_dir": str(folder / "results")} | changes
    path.write_text(yaml.safe_dump(values))
    return path


def run_snakemake(config: Path, *arguments: str, cores: int = 1) -> float:
    """Seconds of one Snakemake run."""
    start = time.perf_counter()
    call("-m", "snakemake", "--cores", str(cores), *arguments, "--configfile", config)
    return time.perf_counter() - start


def read_peak_memory(results: Path) -> float:
    """The largest resident memory of any job, in MB, from Snakemake's benchmark files."""
    peaks = []
    for path in (results / "benchmarks").rglob("*.tsv"):
        with path.open() as file:
            peaks += [float(row["max_rss"]) for row in csv.DictReader(file, delimiter="\t") if row["max_rss"] != "NA"]
    return max(peaks)


def measure_stages(results: Path) -> list[Row]:
    """Minutes of all jobs of each stage together, from Snakemake's benchmark files, and the share of the weights'."""
    minutes: dict[str, float] = {}
    for path in sorted((results / "benchmarks").rglob("*.tsv")):
        stage = path.relative_to(results / "benchmarks").parts[0].removesuffix(".tsv")
        with path.open() as file:
            seconds = sum(float(row["s"]) for row in csv.DictReader(file, delimiter="\t"))
        minutes[stage] = minutes.get(stage, 0.0) + seconds / 60
    share = sum(minutes.get(stage, 0.0) for stage in WEIGHT_STAGES) / sum(minutes.values())
    rows = [Row(f"  jobs of {stage}", value, "min") for stage, value in minutes.items()]
    return [*rows, Row("the weights' share of all jobs", 100 * share, "%")]


def measure_planning(folder: Path) -> list[Row]:
    """`snakemake -n` of the default main job, from nothing."""
    config = write_config(folder)
    seconds = time_interleaved({"plan": lambda: run_snakemake(config, "-n", "quant_config")}, 3)
    return [Row("snakemake -n, default configuration", seconds["plan"], "s", "<= 3")]


def measure_presets(folder: Path) -> list[Row]:
    """The quick preset with one core, then the default main job with two."""
    rows = []
    quick = write_config(folder / "quick", QUICK)
    rows.append(Row("config/quick.yaml, one core", run_snakemake(quick, "quant_config"), "s", "<= 60"))
    config = write_config(folder / "default")
    seconds = run_snakemake(config, "quant_config", cores=2)
    results = folder / "default" / "results"
    rows.append(Row("the default main job, two cores", seconds / 60, "min", "<= 15"))
    rows += measure_stages(results)
    rows.append(Row("largest memory of a worker in it", read_peak_memory(results), "MB", "<= 1000"))
    rows.append(Row("store / raw fp16 bytes", measure_store(results), "x", "<= 1.02"))
    return rows


def measure_store(results: Path) -> float:
    """Bytes of the trajectory store over the fp16 bytes of its states."""
    stored = sum(path.stat().st_size for path in (results / "trajectories.zarr").rglob("*") if path.is_file())
    raw = 0
    for path in (results / "trajectories.zarr").glob("[0-9]*/xs/zarr.json"):
        rows, steps, height, width, channels = json.loads(path.read_text())["shape"]
        raw += rows * steps * height * width * channels * 2
    return stored / raw


def measure() -> list[Row]:
    """All rows of this file, on results of their own in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("plan", "quick", "default"):
            (folder / part).mkdir()
        return measure_planning(folder / "plan") + measure_presets(folder)
