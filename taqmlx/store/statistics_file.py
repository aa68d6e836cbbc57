"""Read the activation statistics: numbers as JSON, with arrays beside them."""

from pathlib import Path
from typing import cast

import numpy as np

from taqmlx.planning.documents import Statistics, StatisticsFormat
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.schemas import check_schema, load_schema
from taqmlx.store.tensors import read_named_tensors

FORMAT: StatisticsFormat = {"format": "activation-statistics", "version": 2}
SCHEMA = load_schema("statistics.schema.json")


def read_statistics(path: Path) -> Statistics:
    """Read the statistics at `path`. Raises UserError if they are missing, damaged or of another format."""
    statistics = read_json(path)
    check_schema(statistics, SCHEMA, path)
    count = len(statistics["steps"])
    for name, described in statistics["inputs"].items():
        lengths = {len(statistics["sigmas"]), *map(len, described["per_step"].values())}
        if lengths != {count}:
            raise UserError(f"{path}: {name}: needs a value for each of {count} steps; run merge_activations again")
    return cast(Statistics, statistics)


def read_statistics_arrays(path: Path, statistics: Statistics) -> dict[str, np.ndarray]:
    """Read the arrays referenced in the `statistics` at `path`, `<input>/<what>`. Raises UserError if they differ."""
    return read_named_tensors(path, statistics["arrays"], "merge_activations")
