"""What a safetensors file says it holds, read without its tensors."""

import math
import os
from pathlib import Path
from typing import Any

from workflow_scripts.plain_files import open_plain, parse_json
from workflow_scripts.store.errors import UNFIT, UserError

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000  # bytes, as the format has it
BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16},
    **{"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64},
}


def read_header(path: Path) -> dict[str, list[int]]:
    """The tensors' names and shapes.

    Raises UserError if the file is cut short, or none in which every tensor has the bytes its type and shape need, and
    no other's: what loads tensors without asking may rely on that.
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
            raise UserError(f"{path} ({size} bytes) is no whole safetensors file; delete it and get it again") from None
    if size != end:
        raise UserError(f"{path} has {size} of {end} bytes; delete it and get it again")
    return {name: about["shape"] for name, about in tensors.items()}


def measure_tensors(tensors: dict[str, dict[str, Any]]) -> int:
    """The bytes of all tensors, one behind the other. Raises ValueError unless offsets, shapes and types agree."""
    end = 0
    for about in sorted(tensors.values(), key=lambda about: about["data_offsets"]):
        if any(extent < 0 for extent in about["shape"]):
            raise ValueError("a negative shape")
        start, end = end, end + math.prod(about["shape"]) * BITS[about["dtype"]] // 8
        if about["data_offsets"] != [start, end]:
            raise ValueError("tensors that overlap, or with gaps between them")
    return end
