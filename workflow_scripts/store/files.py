"""Files that are either whole or absent: written beside their place, then renamed into it."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow_scripts.store.errors import UserError

# What Snakemake leaves in the folders it knows.
SNAKEMAKE_MARKS = {".snakemake_timestamp"}


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, flush it to disk and rename it into place.

    The temporary name keeps the suffix of `path`, since some writers choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` fill a folder beside `path`, then rename it into place: it is there whole or not at all.

    Raises UserError if `path` holds anything already.
    """
    if path.is_file() or (path.is_dir() and any(file.name not in SNAKEMAKE_MARKS for file in path.iterdir())):
        raise UserError(f"{path} is in the way; delete it and run again")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def encode_json(value: Any) -> str:
    """Sorted, indented JSON with a final newline: equal values give equal bytes. NaN is refused."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as sorted JSON."""
    write_atomically(path, lambda partial: partial.write_text(encode_json(value), encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError naming the file if it is absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the rule that makes it") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from None


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
