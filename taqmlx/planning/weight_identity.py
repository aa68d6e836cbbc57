"""Cheap identity check for large files: size plus first and last MiB. Standard library only.

Not a proof of identity, which takes a hash of the whole file, but enough to stop a run that points to other weights by
mistake.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

END = 1 << 20  # bytes


def hash_ends(path: Path) -> str:
    """SHA-256 (hex) of a file's size and of its first and last MiB."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(END))
        file.seek(-min(size, END), os.SEEK_END)
        digest.update(file.read())
    return digest.hexdigest()


def find_other_weights(record: Path, weights_from: str) -> Iterator[str]:
    """Yield a line for each file in `weights_from` that differs from `record`, the results' `weights.json`.

    `weights_from` is a folder, a file, or the index of a sharded file.
    """
    try:
        known = json.loads(record.read_text(encoding="utf-8"))["glimpses"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    source = Path(weights_from).expanduser()
    folder = source.parent if source.name.endswith(".index.json") else source  # the folder that holds the shards
    for name, wanted in known.items():
        path = folder / name
        if path.is_file() and hash_ends(path) != wanted:
            yield f"{path} is not the file that {record.parent} was made with"
    if source.is_file() and hash_ends(source) not in known.values():
        yield f"{source} is not the file that {record.parent} was made with"
