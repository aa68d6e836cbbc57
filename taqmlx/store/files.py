"""Files that are either whole or absent: written beside their place, then renamed into it.

JSON files of results vouch for themselves: `checksum` is the fingerprint of everything else in them.
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
from taqmlx.store.partials import hold_partial
from taqmlx.store.places import Place, read_files

# What Snakemake leaves in the folders it knows.
SNAKEMAKE_MARKS = {".snakemake_timestamp"}
CHECKSUM = "checksum"


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Let an OSError name `path`: those of writing and flushing name no file, others a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to disk and rename it into place."""
    with name_file(path), hold_partial(path, Path.touch) as partial:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` fill a folder beside `path`, then rename it into place: it is there whole or not at all.

    Raises UserError if `path` holds anything already.
    """
    if path.is_file() or (path.is_dir() and any(file.name not in SNAKEMAKE_MARKS for file in path.iterdir())):
        raise UserError(f"{path} is in the way; delete it and run again")
    with name_file(path), hold_partial(path, Path.mkdir) as partial:
        fill(partial)
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)


def encode_json(value: Any) -> str:
    """Sorted, indented JSON with a final newline: equal values give equal bytes. NaN is refused."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_plain_json(path: Path, value: Any) -> None:
    """Write `value` atomically as sorted JSON, as other programs lay it out."""
    write_atomically(path, lambda partial: partial.write_text(encode_json(value), encoding="utf-8"))


def find_broken(value: Any, place: str = "") -> Iterator[str]:
    """Where in `value` a number is NaN or infinite: the names on the way there, joined by dots."""
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_broken(part, f"{place}.{key}".lstrip("."))
    elif isinstance(value, float) and not math.isfinite(value):
        yield place


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` atomically as sorted JSON with its checksum, whatever `checksum` it has.

    Raises UserError, naming the place, for a number that is not finite.
    """
    if broken := next(find_broken(content), None):
        raise UserError(f"{path}: {broken} would be no finite number; check what it is made from")
    kept = drop_checksum(json.loads(encode_json(content)))
    write_plain_json(path, kept | {CHECKSUM: plan.fingerprint(kept)})


def read_plain_json(path: Place, whole: Place | None = None) -> Any:
    """Read a JSON file of any program; `whole` is what it is a part of, if it cannot be made again by itself.

    Raises UserError naming the file, and what to delete, if it is absent, not JSON, or none that could be ours.
    """
    (content,) = read_files([path], plain_files.LARGEST_JSON)
    return decode_json(content, path, whole)


def decode_json(content: bytes | Exception, path: Place, whole: Place | None = None) -> Any:
    """The value in the `content` of a JSON file, or in place of it the error of reading it.

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
    """The content of a file of `write_json`, without its checksum; `expected` are values it has to have.

    Raises UserError naming the file if it is absent, changed, or another.
    """
    content = read_plain_json(path)
    if not isinstance(content, dict) or not is_unchanged(content):
        raise UserError(f"{path} is damaged or was changed: its checksum does not hold; delete it and run again")
    for key, value in expected.items():
        if content.get(key) != value:
            raise UserError(f"{path} is of the {key} {content.get(key)}, not {value}; delete it and run again")
    return drop_checksum(content)


def is_unchanged(content: dict[str, Any]) -> bool:
    """Whether `content`, read from a file, has a checksum and it holds."""
    return content.get(CHECKSUM) == plan.fingerprint(drop_checksum(content))


def drop_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """`content` without its checksum."""
    return {key: value for key, value in content.items() if key != CHECKSUM}


def refuse_changed(path: Path, content: dict[str, Any], rule: str) -> dict[str, Any]:
    """`content` of `path` without its checksum, which others may leave out.

    Raises UserError, naming the `rule` that makes the file, if there is one and it does not hold.
    """
    if CHECKSUM in content and not is_unchanged(content):
        raise UserError(
            f"{path} is damaged or was changed: its checksum does not hold; delete it and run {rule} again"
            " (a change of your own: remove its key checksum)"
        )
    return drop_checksum(content)


def find_named(path: Path, name: str) -> Path:
    """The file that the file `path` calls `name`: beside it, or in a folder below.

    Raises UserError for a name, or a link, that leads elsewhere.
    """
    folder = path.parent
    try:
        (folder / name).is_file()
        is_inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, or a name no file can have
        is_inside = False
    if not is_inside:
        raise UserError(f"{path} names {name[:80]!r}, which leads out of {folder}; put the file there, and name it so")
    return folder / name


def name_below(path: Path, folder: Path) -> str:
    """What a file in `folder` calls the file `path` for `find_named` to find. Raises UserError for one elsewhere."""
    name = Path(os.path.relpath(path, folder)).as_posix()
    if name.startswith("../"):
        raise UserError(f"{path} is not below {folder}, where what names it is written; write that beside it or above")
    return name


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with plain_files.open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
