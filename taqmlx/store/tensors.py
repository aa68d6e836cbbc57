"""Safetensors files: written atomically, with equal bytes for equal arrays; damage is reported by name.

A file whose digest is not stored elsewhere holds its own, with metadata `about` the arrays.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from taqmlx.numerics.stored_types import decode_bfloat16, encode_bfloat16
from taqmlx.planning.documents import ArraysFile
from taqmlx.planning.plain_files import open_plain, parse_json, read_plain
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import find_named, hash_file, write_atomically
from taqmlx.store.safetensors_header import LENGTH_BYTES, StoredTensor

ALIGNMENT = 8  # of the tensors' bytes, required by the format
BFLOAT16 = "BF16"
# NumPy dtypes by the format's names; bf16 is read and written as its bits.
DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: "<u2", "I64": "<i8", "U64": "<u8", "I32": "<i4"},
    **{"U32": "<u4", "I16": "<i2", "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1", "C64": "<c8"},
}
NAMES = {dtype: name for name, dtype in DTYPES.items() if name != BFLOAT16}


def write_tensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write `arrays` atomically to the safetensors file `path`."""
    # Not with safetensors' save_file, whose files are readable only by their owner.
    data = save({key: np.ascontiguousarray(array) for key, array in arrays.items()}, metadata)
    write_atomically(path, lambda partial: partial.write_bytes(data))


def stream_tensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: DTypeLike, parts: Iterable[np.ndarray]
) -> None:
    """Write tensors of `shapes` and one dtype, float16 or float32, atomically to the safetensors file `path`.

    parts: the values of all tensors in order, in pieces of any size; one piece is in memory at a time. The bytes equal
    those of `write_tensors` if the names are sorted. Raises ValueError unless the parts fill the shapes.
    """
    stored = {name: StoredTensor(NAMES[np.dtype(dtype).str], list(shape)) for name, shape in shapes.items()}
    stream_stored(path, stored, (np.ascontiguousarray(part, dtype) for part in parts))


def write_bfloat16(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write `arrays` atomically to the safetensors file `path`, those of float32 as bf16; one is copied at a time.

    Equal arrays give equal bytes. Raises ValueError for a float32 value that bf16 does not have.
    """
    stored = {name: StoredTensor(name_stored(array), list(array.shape)) for name, array in arrays.items()}
    # The widest first, so that all are aligned.
    stored = dict(sorted(stored.items(), key=lambda item: (-np.dtype(DTYPES[item[1].dtype]).itemsize, item[0])))
    parts = (
        encode_bfloat16(arrays[name]) if about.dtype == BFLOAT16 else np.ascontiguousarray(arrays[name])
        for name, about in stored.items()
    )
    stream_stored(path, stored, parts, metadata)


def name_stored(array: np.ndarray) -> str:
    """The format's name of the type that `write_bfloat16` stores `array` in."""
    return BFLOAT16 if array.dtype == np.float32 else NAMES[array.dtype.str]


def stream_stored(
    path: Path,
    stored: Mapping[str, StoredTensor],
    parts: Iterable[np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the tensors described by `stored`, from the contiguous `parts` of all in order, atomically to `path`.

    Raises ValueError unless the parts fill the shapes.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, about in stored.items():
        start, end = end, end + math.prod(about.shape) * np.dtype(DTYPES[about.dtype]).itemsize
        header[name] = {"dtype": about.dtype, "shape": about.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
            written = sum(file.write(part.reshape(-1).view(np.uint8).data) for part in parts)
        if written != end:
            raise ValueError(f"{path}: {written} bytes of tensors, where {end} were described")

    write_atomically(path, write)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file, bf16 as float32.

    Raises UserError if it is missing, damaged, or of a dtype NumPy lacks.
    """
    try:
        found = deserialize(read_plain(path))  # type: ignore[no-untyped-call]
        return {name: decode_tensor(about) for name, about in found}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the rule that makes it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from None
    except KeyError as error:
        raise UserError(f"{path} has tensors of the type {error.args[0]}, which NumPy does not have") from None


def decode_tensor(about: Mapping[str, Any]) -> np.ndarray:
    """Array of a tensor's `dtype`, `shape` and `data`. Raises KeyError for a dtype NumPy lacks."""
    array = np.frombuffer(about["data"], DTYPES[about["dtype"]]).reshape(about["shape"])
    return decode_bfloat16(array) if about["dtype"] == BFLOAT16 else array


def read_note(path: Path, key: str) -> Any:
    """Read the JSON under `key` in the metadata of a valid safetensors file. Raises UserError."""
    with report_damage(path):
        return parse_json(read_metadata(path)[key])


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a valid safetensors file."""
    with open_tensors(path) as file:
        return file.metadata() or {}


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for partial reading. Raises UserError if it is missing, damaged or not a regular file."""
    try:
        open_plain(path).close()  # safetensors itself would block on a pipe
        with safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, SafetensorError, IndexError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); delete it and run again") from error


def reject_nonfinite(path: Path, arrays: Mapping[str, np.ndarray], again: str) -> None:
    """Raise UserError, naming file and array, if one of `arrays`, read from `path`, has a NaN or an infinity.

    again: the remedy, the end of the message.
    """
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise UserError(f"{path}: {name} has values that are not finite; {again}")


def write_sealed_tensors(path: Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write `arrays` atomically with the metadata `about` and a digest of both."""
    about = about | {"sha256": digest_tensors(arrays, about)}
    # A single entry: safetensors writes several in arbitrary order.
    write_tensors(path, arrays, {"about": json.dumps(about, sort_keys=True, ensure_ascii=False)})


def read_sealed_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and metadata of a file written by `write_sealed_tensors`.

    Raises UserError if it is missing, damaged, changed, or not finite.
    """
    arrays = read_tensors(path)
    try:
        about = json.loads(read_metadata(path)["about"])
        found = about.pop("sha256")
    except (KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path} has no valid metadata; delete it and run again") from None
    if found != digest_tensors(arrays, about):
        raise UserError(f"{path} is not what was written; delete it and run again")
    reject_nonfinite(path, arrays, "delete it and run again")
    return arrays, about


def digest_tensors(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    """sha256 (hex) of names, dtypes, shapes and bytes, and of `about` as JSON."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # as written
    shapes = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    digest = hashlib.sha256(json.dumps([shapes, about], sort_keys=True, ensure_ascii=False).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].data)
    return digest.hexdigest()


def read_named_tensors(path: Path, named: ArraysFile, rule: str) -> dict[str, np.ndarray]:
    """Read the arrays in the file referenced by the JSON file `path`: `named` has its name `file` and its `sha256`.

    Raises UserError, naming the `rule` that makes both, if it is missing, changed, or has values that are not finite.
    """
    with report_damage(path):
        file = find_named(path, named["file"])
        if not file.is_file() or hash_file(file) != named["sha256"]:
            raise UserError(f"{file} is missing or not what {path} was made with; delete both and run {rule} again")
    arrays = read_tensors(file)
    reject_nonfinite(file, arrays, f"delete {file} and run {rule} again")
    return arrays
