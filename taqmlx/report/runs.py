"""Record of the run: configuration, versions, digests, and the cost of each stage."""

import csv
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from taqmlx.planning.checkpoint_documents import QuantConfigDocument
from taqmlx.report.tables import Body, Cell, Column, Facts, Table, show_count, show_number, show_words
from taqmlx.runtime.entry import PACKAGE, format_duration
from taqmlx.runtime.versions import find_version
from taqmlx.store.errors import UserError

Benchmarks = dict[str, list[Mapping[str, str]]]  # rows of Snakemake's benchmark tables, by stage
PACKAGES = (
    PACKAGE,
    *("mlx", "diffusionkit", "numpy", "zarr", "snakemake", "torch", "torchmetrics", "matplotlib"),
)
MEGABYTES = 1.048576  # psutil reports MiB


def read_config(text: str) -> Facts:
    """The configuration from the command line. Raises UserError if it is not JSON."""
    try:
        config: Facts = json.loads(text)
        return config
    except json.JSONDecodeError as error:
        raise UserError(f"--config is not JSON ({error}); give the configuration as JSON") from None


def list_configuration(config: Facts) -> list[tuple[str, str]]:
    """All keys with values in YAML flow style, in configuration order; only the last part of absolute paths."""
    return [(key, format_value(hide_folders(value))) for key, value in config.items()]


def hide_folders(value: Any) -> Any:
    """Strip the folders of every absolute path in `value`."""
    if isinstance(value, dict):
        return {key: hide_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hide_folders(item) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        return PureWindowsPath(value).name
    return value


def format_value(value: Any) -> str:
    """Format a value in one line; text is kept as it is, unless it is empty."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def list_versions() -> list[tuple[str, str]]:
    """Versions of Python and of the packages that computed the results."""
    return [("Python", platform.python_version()), *((name, find_version(name)) for name in PACKAGES)]


def list_digests(config: QuantConfigDocument, multitier: QuantConfigDocument, fid: Facts) -> list[tuple[str, str]]:
    """Digests of the sources of the results, as sha256 or fingerprints."""
    origin = config["origin"]
    return [
        ("packed weights", config["weights"]["sha256"]),
        ("quantization config's arrays", config["arrays"]["sha256"]),
        ("multi-tier config's arrays", multitier["arrays"]["sha256"]),
        ("calibration", origin["calibration"]["fingerprint"]),
        ("activation statistics", origin["statistics"]["fingerprint"]),
        *((f"block {name}", digest) for name, digest in origin["blocks"].items()),
        *((f"model, {name}", digest) for name, digest in origin["model"].items()),
        ("network of the features", fid["features"]["weights_sha256"]),
    ]


def tabulate_pairs(name: str, caption: str, pairs: Iterable[tuple[str, str]], titles: tuple[str, str]) -> Table:
    """Table with two text columns."""
    rows = [[show_words(key), show_words(value)] for key, value in pairs]
    return Table(name, caption, [Column(title, is_number=False) for title in titles], [Body(rows)])


def read_benchmarks(folder: Path) -> Benchmarks:
    """Read Snakemake's benchmarks in `folder`, by stage: the file name, or the top folder it is in."""
    stages: Benchmarks = {}
    for path in sorted(folder.rglob("*.tsv")):
        stage = path.relative_to(folder).with_suffix("").parts[0]
        with path.open(encoding="utf-8", newline="") as file:
            stages.setdefault(stage, []).extend(csv.DictReader(file, delimiter="\t"))
    return stages


def tabulate_benchmarks(stages: Benchmarks) -> Table:
    """Table of the cost of each stage, the longest first."""
    facts = sorted((describe_stage(name, rows) for name, rows in stages.items()), key=lambda f: -f["total"])
    rows = [
        [
            show_words(fact["name"]),
            show_count(fact["jobs"]),
            Cell(format_seconds(fact["total"]), fact["total"]),
            Cell(format_seconds(fact["longest"]), fact["longest"]),
            show_number(fact["memory"], 0),
        ]
        for fact in facts
    ]
    titles = ("Stage", "Jobs", "Time, all jobs", "Longest job", "Largest memory, MB")
    total = format_duration(sum(fact["total"] for fact in facts))
    caption = f"Time and memory by stage; {total} of work in all"
    columns = [Column(title, is_number=place > 0) for place, title in enumerate(titles)]
    return Table("stages", caption, columns, [Body(rows)], is_sortable=True, unit="stages")


def format_seconds(seconds: float) -> str:
    """Format a duration, with one decimal below a minute."""
    return f"{seconds:.1f} s" if seconds < 59.95 else format_duration(seconds)


def describe_stage(name: str, rows: list[Mapping[str, str]]) -> Facts:
    """Jobs, seconds and largest resident memory in MB of a stage; jobs too short to be sampled have none."""
    seconds = [float(row["s"]) for row in rows]
    memory = [float(row["max_rss"]) * MEGABYTES for row in rows if row["max_rss"] not in ("-", "NA")]
    return {
        "name": name,
        "jobs": len(rows),
        "total": sum(seconds),
        "longest": max(seconds, default=0.0),
        "memory": max(memory, default=None),
    }
