"""Files that anyone may have written, read only if they are plain files of a bounded size; and such JSON.

Standard library only, as planning a run reads them too.
"""

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # suffixes of those that are read
LARGEST_JSON = 1 << 26  # bytes; Python needs some twenty times as much for what is in them
DEEPEST_JSON = 50  # levels
LARGEST_NUMBER = 2**63  # an integer stays below


def open_plain(path: Path) -> BufferedReader:
    """The file in `path`, open for reading. Raises OSError if it is a folder, a pipe, which would hang, or a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, largest: int | None = None) -> bytes:
    """The bytes of a plain file. Raises OSError as `open_plain`, and ValueError for more than `largest` bytes."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if largest is not None and size > largest:
            raise ValueError(f"it has {size} bytes, and at most {largest} are read")
        return file.read()


def read_plain_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError and ValueError, in a few words, as `read_plain` and `parse_json`."""
    return parse_json(read_plain(path, LARGEST_JSON))


def parse_json(content: str | bytes) -> Any:
    """The value that `content` stands for.

    Raises ValueError, in a few words, for what is not JSON in UTF-8, for a key that is there twice, for numbers that
    are not finite or beyond 64 bits, for halves of characters, and for what is nested too deeply.
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        value = json.loads(text, object_pairs_hook=build_object, parse_int=read_integer)
        # NaN, an infinity or half a surrogate pair cannot be written again.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST_JSON} levels deep") from None
    except UnicodeEncodeError:
        raise ValueError("it has half a character") from None
    if is_deeper(value, DEEPEST_JSON):
        raise ValueError(f"it is nested more than {DEEPEST_JSON} levels deep")
    return value


def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of `pairs`. Raises ValueError if a key is there twice."""
    built = dict(pairs)
    if len(built) < len(pairs):
        raise ValueError("a key is there twice")
    return built


def read_integer(digits: str) -> int:
    """An integer. Raises ValueError for one that 64 bits cannot hold."""
    if len(digits) > 20 or not -LARGEST_NUMBER <= int(digits) < LARGEST_NUMBER:
        raise ValueError(f"the number {digits[:20]}... has more than 64 bits")
    return int(digits)


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and dictionaries are nested in `value` more than so many levels deep."""
    level = [value]
    for _ in range(levels + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [item for part in containers for item in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return False
    return True
