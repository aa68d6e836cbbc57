"""What a safetensors file says it holds, read without its tensors."""

import json
from pathlib import Path

from workflow_scripts.store.errors import UserError

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000  # bytes, as the format has it


def read_header(path: Path) -> dict[str, list[int]]:
    """The tensors' names and shapes. Raises UserError if the file is cut short or no safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        try:
            if length > LARGEST_HEADER:
                raise ValueError("no such header")
            header = json.loads(file.read(length))
            tensors = {name: about for name, about in header.items() if name != "__metadata__"}
            end = LENGTH_BYTES + length + max((about["data_offsets"][1] for about in tensors.values()), default=0)
        except (ValueError, AttributeError, KeyError, TypeError):
            raise UserError(f"{path} ({size} bytes) is no whole safetensors file; delete it and get it again") from None
    if size != end:
        raise UserError(f"{path} has {size} of {end} bytes; delete it and get it again")
    return {name: about["shape"] for name, about in tensors.items()}
