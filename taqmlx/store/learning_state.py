"""Checkpoint of a block's optimisation: one safetensors file, replaced atomically."""

from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.store.errors import UserError
from taqmlx.store.tensors import read_sealed_tensors, write_sealed_tensors

# Plain values of a state of learning, by name: integers, and lists of numbers.
Numbers = dict[str, Any]


def write_learning(path: Path, fingerprint: str, numbers: Numbers, arrays: dict[str, np.ndarray]) -> None:
    """Replace the checkpoint at `path`: `numbers`, plain values, and `arrays` by name; it is on disk on return."""
    write_sealed_tensors(path, arrays, {"fingerprint": fingerprint, "numbers": numbers})


def read_learning(path: Path, fingerprint: str) -> tuple[Numbers, dict[str, np.ndarray]] | None:
    """Return the numbers and arrays at `path`, or None if it is absent.

    Raises UserError if it is damaged or its fingerprint of parameters and inputs is not `fingerprint`.
    """
    if not path.exists():
        return None
    arrays, about = read_sealed_tensors(path)
    if about.get("fingerprint") != fingerprint:
        raise UserError(f"{path} was made with other parameters or inputs")
    return about["numbers"], arrays
