"""Zarr (format 3) arrays described as data; whole chunks are written and read, and damage is reported by file.

A chunk file holds the values in little-endian order, compressed by Blosc (Zstandard level 1, bit shuffle), followed by
their crc32c, which detects any change within the file. It detects neither a missing chunk nor two swapped chunks:
reading opens each file, and seals hold digests of the values. All chunks of an array lie in one folder
(`xs/c.3.1.0.0.0`): a folder per index would cost more than the chunks.

The zarr package reads these groups like any other. It is not used here: loading and running it takes longer than all
storage of a small shard, it cannot flush what it writes, and its errors do not name the damaged file.
"""

import itertools
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc

from taqmlx.planning.plain_files import LARGEST_JSON
from taqmlx.store.errors import UserError
from taqmlx.store.files import SNAKEMAKE_MARKS, decode_json, encode_json, name_file
from taqmlx.store.locations import Location, list_files, read_files

blosc.use_threads = False  # as the zarr package does: chunks are processed in parallel instead

COMPRESSOR, LEVEL, BLOCK_SIZE = "zstd", 1, 0
BLOSC = {"cname": COMPRESSOR, "clevel": LEVEL, "shuffle": "bitshuffle", "blocksize": BLOCK_SIZE}
CHECKSUM_BYTES = 4
FILES_AT_ONCE = 16
# Limits on decompressed size: small chunks may hold any content, large ones at most this multiple of their file size.
SMALL_CHUNK, LARGEST_RATIO = 1 << 20, 1000
MOST_CHUNKS = 10_000_000
LONGEST_VALUE = 200  # characters shown of a value

Index = tuple[int, ...]


@dataclass(frozen=True)
class ArraySpec:
    """Name, shape, chunk shape and dtype of one array of a group."""

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str

    @property
    def fill(self) -> float | int:
        """Value of an absent chunk: NaN, or -1 for integers; no real chunk consists of it."""
        return math.nan if np.dtype(self.dtype).kind == "f" else -1

    @property
    def file_count(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    def list_chunks(self) -> Iterator[Index]:
        """Indices of all chunks."""
        return itertools.product(*map(range, self.file_count))

    def name_file(self, index: Index) -> str:
        """File of chunk `index`, relative to the group; missing trailing indices are 0."""
        whole = (*index, *(0,) * (len(self.shape) - len(index)))
        return f"{self.name}/{'.'.join(['c', *map(str, whole)])}"

    def describe(self) -> dict[str, Any]:
        """Metadata of the array in Zarr format 3."""
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": BLOSC | {"typesize": np.dtype(self.dtype).itemsize}},
            {"name": "crc32c"},
        ]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if math.isnan(self.fill) else self.fill,
            "codecs": codecs,
            "attributes": {},
            "storage_transformers": [],
        }

    def encode(self, values: np.ndarray) -> bytes:
        """Encode a chunk as file content; `values` may end early at the array's edge."""
        chunk = np.full(self.chunks, self.fill, dtype=np.dtype(self.dtype).newbyteorder("<"))
        chunk[tuple(map(slice, values.shape))] = values
        content: bytes = blosc.compress(chunk, COMPRESSOR.encode(), LEVEL, blosc.BITSHUFFLE, BLOCK_SIZE)
        checksum: bytes = google_crc32c.value(content).to_bytes(CHECKSUM_BYTES, "little")
        return content + checksum

    def decode(self, content: bytes, index: Index) -> np.ndarray:
        """Decode the file content of chunk `index`, cropped to the array. Raises ValueError if it is damaged."""
        body, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if not body or google_crc32c.value(body).to_bytes(CHECKSUM_BYTES, "little") != checksum:
            raise ValueError("wrong checksum")
        # Blosc allocates the size in the header, so that is checked first.
        size = math.prod(self.chunks) * np.dtype(self.dtype).itemsize
        if int.from_bytes(body[4:8], "little") != size or size > max(SMALL_CHUNK, LARGEST_RATIO * len(body)):
            raise ValueError("wrong size")
        chunk = np.frombuffer(blosc.decompress(body), dtype=np.dtype(self.dtype).newbyteorder("<")).reshape(self.chunks)
        starts = (i * chunk for i, chunk in zip(index, self.chunks, strict=False))
        ends = [size - start for size, start in zip(self.shape, starts, strict=False)]
        return np.ascontiguousarray(chunk[tuple(map(slice, ends))])


def create_group(path: Path, specs: Sequence[ArraySpec], attributes: dict[str, Any] | None = None) -> None:
    """Create a group with `attributes` and the empty arrays of `specs` in folder `path`."""
    root = {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}
    described = {"zarr.json": root} | {f"{spec.name}/zarr.json": spec.describe() for spec in specs}
    for spec in specs:
        (path / spec.name).mkdir(parents=True)
    write_files((path / name, lambda value=value: encode_json(value).encode()) for name, value in described.items())


def check_group(path: Location, specs: Sequence[ArraySpec]) -> None:
    """Raise UserError unless the arrays of the group at `path` match `specs` and have a possible shape."""
    for spec in specs:
        if min(spec.shape) < 1 or math.prod(spec.file_count) > MOST_CHUNKS:
            raise UserError(f"{path / spec.name} cannot be of shape {list(spec.shape)}; delete {path} and run again")
    places = [path / spec.name / "zarr.json" for spec in specs]
    for spec, place, content in zip(specs, places, read_files(places, LARGEST_JSON), strict=True):
        found, wanted = decode_json(content, place, path), json.loads(json.dumps(spec.describe()))
        for key in wanted:
            if not isinstance(found, dict) or found.get(key) != wanted[key]:
                value = found.get(key) if isinstance(found, dict) else found
                shown = str(value)[:LONGEST_VALUE]
                raise UserError(f"{place}: {key} is {shown} instead of {wanted[key]}; delete {path} and run again")


def write_chunks(path: Path, chunks: Iterable[tuple[ArraySpec, Index, np.ndarray]]) -> None:
    """Write whole chunks of the group at `path`; they are on disk on return."""
    write_files((path / spec.name_file(index), lambda s=spec, v=values: s.encode(v)) for spec, index, values in chunks)


def write_files(files: Iterable[tuple[Path, Any]]) -> None:
    """Write files atomically, each with the bytes returned by its function; they are on disk on return.

    They are written in parallel: file systems then write their journal once instead of once per file.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(_write_file, files))


def _write_file(file: tuple[Path, Any]) -> None:
    path, make = file
    partial = path.with_name(f"{path.name}.{threading.get_ident()}.partial")
    with name_file(path):
        with partial.open("wb") as handle:
            handle.write(make())
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)


def read_chunk(path: Location, spec: ArraySpec, index: Index = (0,)) -> np.ndarray:
    """Read a chunk of the group at `path`; missing trailing indices are 0.

    Raises UserError naming the file if it is missing or damaged.
    """
    return read_chunks(path, [(spec, index)])[0]


def read_chunks(path: Location, wanted: Sequence[tuple[ArraySpec, Index]]) -> list[np.ndarray]:
    """Read several chunks of the group at `path`. Raises as `read_chunk`."""
    files, chunks = [path / spec.name_file(index) for spec, index in wanted], []
    for (spec, index), file, content in zip(wanted, files, read_files(files), strict=True):
        try:
            if isinstance(content, Exception):
                raise content
            chunks.append(spec.decode(content, index))
        except FileNotFoundError:
            raise UserError(describe_missing(path, file)) from None
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise UserError(f"{file} is damaged; delete {path} and run again") from error
    return chunks


def describe_missing(path: Location, file: Location) -> str:
    """Message for a missing chunk file of the group at `path`."""
    return f"{file} is missing; delete {path} and run again"


def find_missing(path: Location, specs: Sequence[ArraySpec]) -> Iterator[str]:
    """Yield a line for each missing chunk file of the group at `path`."""
    present = list_files(path)
    for name in (spec.name_file(index) for spec in specs for index in spec.list_chunks()):
        if name not in present:
            yield describe_missing(path, path / name)


def find_strays(path: Location, specs: Sequence[ArraySpec]) -> Iterator[str]:
    """Yield a line for each file of the group at `path` that does not belong to it."""
    expected = {"zarr.json", *(f"{spec.name}/zarr.json" for spec in specs)}
    expected.update(spec.name_file(index) for spec in specs for index in spec.list_chunks())
    for name in sorted(list_files(path) - expected):
        if name.rpartition("/")[2] not in SNAKEMAKE_MARKS:
            yield f"{path / name} does not belong to the store; delete it"
