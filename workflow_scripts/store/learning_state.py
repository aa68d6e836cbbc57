"""The checkpoint of a block's learning: one safetensors file that is replaced atomically."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from workflow_scripts.store.errors import UserError
from workflow_scripts.store.tensors import read_metadata, read_tensors, write_tensors


def write_learning(path: Path, fingerprint: str, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Replace the checkpoint in `path`: `numbers`, plain values, and `arrays` by name; on disk when this returns."""
    write_tensors(path, arrays, {"fingerprint": fingerprint, "numbers": json.dumps(numbers)})


def read_learning(path: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The numbers and arrays in `path`, or None if it is absent.

    Raises UserError if it is damaged, or was made with other parameters or inputs than `fingerprint` stands for.
    """
    if not path.exists():
        return None
    arrays, metadata = read_tensors(path), read_metadata(path)
    if metadata.get("fingerprint") != fingerprint:
        raise UserError(f"{path} was made with other parameters or inputs")
    return json.loads(metadata["numbers"]), arrays
