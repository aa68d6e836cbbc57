"""Reading the activation statistics."""

from pathlib import Path
from typing import Any

import numpy as np

from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file
from workflow_scripts.store.tensors import read_tensors


def read_statistics_arrays(path: Path, statistics: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that the `statistics` in `path` name, `<input>/<what>`. Raises UserError if they are not those."""
    file = path.parent / statistics["arrays"]["file"]
    if not file.is_file() or hash_file(file) != statistics["arrays"]["sha256"]:
        raise UserError(f"{file} is missing or not what {path} was made with; run merge_activations again")
    return read_tensors(file)
