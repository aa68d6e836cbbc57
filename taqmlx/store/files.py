"""Atomic files: written to a temporary name in the same folder, then renamed.

JSON result files carry a `checksum`, the fingerprint of the rest of their content.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taqmlx.planning import plain_files, plan
from taqmlx.store.errors import UserError
from taqmlx.store.locations import Location, read_files
from taqmlx.store.partials import hold_partial

# Files that Snakemake leaves in the folders it tracks.
SNAKEMAKE_MARKS = {".snakemake_timestamp"}
CHECKSUM = "checksum"


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Set the file name of an OSError to `path`: errors of writing name no file, others a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk and rename it."""
    with name_file(path), hold_partial(path, Path.touch) as partial:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Call `fill` on a temporary folder beside `path`, then rename it, so that `path` is complete or absent.

    Raises UserError if `path` already holds anything.
    """
    if path.is_file() or (path.is_dir() and any(file.name not in SNAKEMAKE_MARKS for file in path.iterdir())):
        raise UserError(f"{path} is in the way; delete it and run again")
    with name_file(path), hold_partial(path, Path.mkdir) as partial:
        fill(partial)
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)


def encode_json(value: Any) -> str:
    """Encode as sorted, indented JSON with a final newline: equal values give equal bytes. NaN is rejected."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_plain_json(path: Path, value: Any) -> None:
    """Write `value` atomically as sorted JSON without a checksum, in the layout of other programs."""
    write_atomically(path, lambda partial: partial.write_text(encode_json(value), encoding="utf-8"))


def find_nonfinite(value: Any, place: str = "") -> Iterator[str]:
    """Yield the dotted path of each number in `value` that is NaN or infinite."""
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_nonfinite(part, f"{place}.{key}".lstrip("."))
    elif isinstance(value, float) and not math.isfinite(value):
        yield place


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` atomically as sorted JSON with a new checksum; an existing `checksum` is replaced.

    Raises UserError, naming the key, for a number that is not finite.
    """
    if broken := next(find_nonfinite(content), None):
        raise UserError(f"{path}: {broken} is not a finite number; check its inputs")
    kept = drop_checksum(json.loads(encode_json(content)))
    write_plain_json(path, kept | {CHECKSUM: plan.fingerprint(kept)})


def read_plain_json(path: Location, whole: Location | None = None) -> Any:
    """Read a JSON file from any program; `whole` is the folder to delete if the file cannot be remade alone.

    Raises UserError naming the file and the remedy if it is absent, not JSON, or rejected by `parse_json`.
    """
    (content,) = read_files([path], plain_files.LARGEST_JSON)
    return decode_json(content, path, whole)


def decode_json(content: bytes | Exception, path: Location, whole: Location | None = None) -> Any:
    """Decode the `content` of a JSON file; `content` may be the exception raised by reading it.

    Raises as `read_plain_json`.
    """
    try:
        if isinstance(content, Exception):
            raise content
        return plain_files.parse_json(content)
    except FileNotFoundError:
        cure = f"delete {whole} and run again" if whole else "run the rule that makes it"
        raise UserError(f"{path} is missing; {cure}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete {whole or 'it'} and run again") from None


def read_json(path: Path, **expected: Any) -> dict[str, Any]:
    """Read a file written by `write_json`, without its checksum; `expected` gives values it must have.

    Raises UserError naming the file if it is absent, was changed, or has other values.
    """
    content = read_plain_json(path)
    if not isinstance(content, dict) or not is_unchanged(content):
        raise UserError(f"{path} is damaged or was changed: its checksum does not match; delete it and run again")
    for key, value in expected.items():
        if content.get(key) != value:
            raise UserError(f"{path} belongs to the {key} {content.get(key)}, not {value}; delete it and run again")
    return drop_checksum(content)


def is_unchanged(content: dict[str, Any]) -> bool:
    """True if `content`, read from a file, has a checksum that matches."""
    return content.get(CHECKSUM) == plan.fingerprint(drop_checksum(content))


def drop_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Return `content` without its checksum."""
    return {key: value for key, value in content.items() if key != CHECKSUM}


def reject_changed(path: Path, content: dict[str, Any], rule: str) -> dict[str, Any]:
    """Return `content` of `path` without its checksum, which is optional in files from other programs.

    Raises UserError, naming the `rule` that makes the file, if there is a checksum and it does not match.
    """
    if CHECKSUM in content and not is_unchanged(content):
        raise UserError(
            f"{path} is damaged or was changed: its checksum does not match; delete it and run {rule} again"
            " (if you edited it: remove its key checksum)"
        )
    return drop_checksum(content)


def find_named(path: Path, name: str) -> Path:
    """Resolve the file `name` referenced in the file `path`: in the same folder or below.

    Raises UserError for a name or link that leads elsewhere.
    """
    folder = path.parent
    try:
        (folder / name).is_file()
        is_inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # circular links, or an invalid file name
        is_inside = False
    if not is_inside:
        raise UserError(f"{path} names {name[:80]!r}, which is outside {folder}; move the file, and correct the name")
    return folder / name


def name_below(path: Path, folder: Path) -> str:
    """Reference to `path` from a file in `folder`, as `find_named` resolves it. Raises UserError if not below."""
    name = Path(os.path.relpath(path, folder)).as_posix()
    if name.startswith("../"):
        raise UserError(f"{path} is not below {folder}; write the file that refers to it beside or above it")
    return name


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with plain_files.open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
