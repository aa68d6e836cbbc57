"""Groups of docs/numbers.json that are read from the files of benchmarks and comparisons of models."""

import re
from pathlib import Path
from statistics import median

from taqmlx.planning.plan import list_block_names
from taqmlx.report.tables import Facts, pick
from taqmlx.store.files import read_json, read_plain_json


def read_bench_group(path: Path, asked: float | None) -> Facts:
    """The value of each row of `make bench` by its name in lower case, percentages as shares, and the BLAS kernels."""
    rows = read_json(path)
    values = {name_row(name): row["value"] / (100 if row["unit"] == "%" else 1) for name, row in rows.items()}
    kernels = dict.fromkeys(row["kernels"] for row in rows.values() if "kernels" in row)
    return {"measured": {"kernels": list(kernels)}, "rows": values}


def read_calibration_group(path: Path, asked: float | None) -> Facts:
    """The cells of `tools.benchmarks.calibration_sets`: SNR before and after distillation, seconds of CPU, bytes."""
    cells = [read_json(cell) for cell in sorted(path.glob("*.json"))]
    cells.sort(key=lambda cell: (cell["prompts"], cell["guidance"], cell["captured"]))
    kept = [pick(cell, "prompts", "guidance", "captured", "seconds", "captured_bytes") for cell in cells]
    for own, cell in zip(kept, cells, strict=True):
        for stage in ("gptq", "distilled"):
            own[stage] = {key: pick(cell[stage][key], "value", "interval_95") for key in ("median", "p5")}
    return {"measured": {"cells": len(cells)}, "cells": kept}


def read_scale_group(path: Path, asked: float | None) -> Facts:
    """Rows of `make scale`: a title and a value for each scale, None where it was not measured."""
    content = read_plain_json(path)
    rows = dict.fromkeys(title for values in content.values() for title in values)
    values = [{"title": title, "values": [found.get(title) for found in content.values()]} for title in rows]
    return {"measured": {}, "scales": [read_scale(name) for name in content], "rows": values}


def read_scale(name: str) -> Facts:
    """Prompts, and prompts a shard, of a scale such as `10,000` or `10,000 by 20`."""
    prompts, _, per_shard = name.replace(",", "").partition(" by ")
    return {"prompts": int(prompts), "per_shard": int(per_shard or 1)}


def read_inputs_group(path: Path, asked: float | None) -> Facts:
    """Median and largest value of each measure of `compare_inputs`, by group of inputs and model.

    A group has the inputs of one stream and role in all blocks, or one input outside the blocks.
    """
    models = read_json(path, format="inputs-compared")["models"]
    names = sorted({name for inputs in models.values() for name in inputs})
    groups: dict[str, Facts] = {}
    for group in dict.fromkeys(map(name_group, names)):
        groups[group] = {
            model: summarize([found for name, found in inputs.items() if name_group(name) == group])
            for model, inputs in models.items()
        }
    return {"measured": {"inputs": {model: len(inputs) for model, inputs in models.items()}}, "groups": groups}


def name_group(name: str) -> str:
    """The stream and role of an input in a block, `text_fc1`; the name of one outside, with underscores."""
    parts = name.split(".")
    return f"{parts[1]}_{parts[-1]}" if parts[0] in list_block_names("sd3-medium") else name.replace(".", "_")


def summarize(found: list[Facts]) -> Facts:
    """Median and largest value of each measure of some inputs."""
    keys = dict.fromkeys(key for measures in found for key in measures)
    values = {key: sorted(measures[key] for measures in found if key in measures) for key in keys}
    return {key: {"median": median(own), "largest": own[-1]} for key, own in values.items()}


def read_outliers_group(path: Path, asked: float | None) -> Facts:
    """Errors of `tools.benchmarks.outliers` by model."""
    content = read_json(path, format="bench-outliers")
    return {"measured": content["about"], "models": content["models"]}


def name_row(name: str) -> str:
    """A row's name in lower case, words joined by underscores."""
    return "_".join(re.findall(r"[a-z0-9]+", name.lower()))
