"""Header of a safetensors file, read without its tensors."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from taqmlx.planning.plain_files import open_plain, parse_json
from taqmlx.store.errors import UNFIT, UserError

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000  # bytes; the limit of the format
BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64},
}
WEIGHT_TYPES = ("F16", "BF16", "F32")  # plain floating-point types; all others are rejected for weights


class StoredTensor(NamedTuple):
    """Tensor dtype, as named by the format (F16, F8_E4M3, ...), and shape."""

    dtype: str
    shape: list[int]


def read_header(path: Path, cure: str = "delete it and get it again") -> dict[str, StoredTensor]:
    """Read the tensor descriptions by name.

    Raises UserError, ending with `cure`, if the file is truncated, or unless each tensor has exactly the bytes required
    by its dtype and shape, without overlaps or gaps; loaders that do not check this may rely on it.
    """
    try:
        opened = open_plain(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); get it again") from None
    with opened as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        try:
            if length > LARGEST_HEADER:
                raise ValueError("no such header")
            header = parse_json(file.read(length))
            tensors = {name: about for name, about in header.items() if name != "__metadata__"}
            end = LENGTH_BYTES + length + measure_tensors(tensors)
        except UNFIT:
            raise UserError(f"{path} ({size} bytes) is not a complete safetensors file; {cure}") from None
    if size != end:
        raise UserError(f"{path} has {size} of {end} bytes; {cure}")
    return {name: StoredTensor(about["dtype"], about["shape"]) for name, about in tensors.items()}


def measure_tensors(tensors: dict[str, dict[str, Any]]) -> int:
    """Total bytes of consecutive tensors. Raises ValueError unless offsets, shapes and dtypes agree."""
    end = 0
    for about in sorted(tensors.values(), key=lambda about: about["data_offsets"]):
        if any(extent < 0 for extent in about["shape"]):
            raise ValueError("a negative shape")
        start, end = end, end + math.prod(about["shape"]) * BITS[about["dtype"]] // 8
        if about["data_offsets"] != [start, end]:
            raise ValueError("tensors that overlap, or with gaps between them")
    return end


def find_coded(tensors: dict[str, StoredTensor]) -> dict[str, str]:
    """Dtypes of tensors that are not plain floating-point numbers, by name: fp8 and similar, integers, booleans."""
    return {name: about.dtype for name, about in tensors.items() if about.dtype not in WEIGHT_TYPES}


def describe_names(names: list[str], shown: int = 3) -> str:
    """Return `a`, or `a, b, c and 17 more`."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
