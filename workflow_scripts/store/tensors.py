"""Safetensors files: written whole and with equal bytes for equal arrays, read with damage named."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import write_atomically


def write_tensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write `arrays` atomically to the safetensors file `path`."""
    # Not by safetensors' own save_file, which makes files only their owner can read.
    data = save({key: np.ascontiguousarray(array) for key, array in arrays.items()}, metadata)
    write_atomically(path, lambda partial: partial.write_bytes(data))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises UserError if it is missing, damaged, or of a type NumPy lacks."""
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the rule that makes it") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from None
    except KeyError as error:
        raise UserError(f"{path} has tensors of the type {error.args[0]}, which NumPy does not have") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file that `read_tensors` reads."""
    with safe_open(path, "numpy") as file:
        return file.metadata() or {}
