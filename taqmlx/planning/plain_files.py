"""Safe reading of untrusted files and JSON: regular files of bounded size only.

Standard library only, since planning reads them too.
"""

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # suffixes of image files that are read
LARGEST_JSON = 1 << 26  # bytes; parsed, they take about twenty times as much memory in Python
DEEPEST_JSON = 50  # levels
LARGEST_NUMBER = 2**63  # bound for integers: -2**63 <= n < 2**63


def open_plain(path: Path) -> BufferedReader:
    """The file at `path`, opened for reading. Raises OSError for a folder, device or pipe (which would block)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, largest: int | None = None) -> bytes:
    """The bytes of a regular file. Raises OSError as `open_plain`, and ValueError for more than `largest` bytes."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if largest is not None and size > largest:
            raise ValueError(f"it has {size} bytes, and at most {largest} are read")
        return file.read()


def read_plain_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError or ValueError, with short messages, as `read_plain` and `parse_json`."""
    return parse_json(read_plain(path, LARGEST_JSON))


def parse_json(content: str | bytes) -> Any:
    """The value of the JSON text `content`.

    Raises ValueError, with a short message, for invalid JSON or UTF-8, duplicate keys, numbers that are not finite or
    exceed 64 bits, lone surrogates, and nesting deeper than DEEPEST_JSON.
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        value = json.loads(text, object_pairs_hook=build_object, parse_int=read_integer)
        # NaN, infinity and lone surrogates cannot be written back.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST_JSON} levels deep") from None
    except UnicodeEncodeError:
        raise ValueError("it has a lone surrogate") from None
    if is_deeper(value, DEEPEST_JSON):
        raise ValueError(f"it is nested more than {DEEPEST_JSON} levels deep")
    return value


def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of `pairs`. Raises ValueError for a duplicate key."""
    built = dict(pairs)
    if len(built) < len(pairs):
        raise ValueError("it has a duplicate key")
    return built


def read_integer(digits: str) -> int:
    """An integer from its digits. Raises ValueError if it does not fit in 64 bits."""
    if len(digits) > 20 or not -LARGEST_NUMBER <= int(digits) < LARGEST_NUMBER:
        raise ValueError(f"the number {digits[:20]}... has more than 64 bits")
    return int(digits)


def is_deeper(value: Any, levels: int) -> bool:
    """True if lists and dictionaries in `value` are nested more than `levels` deep."""
    level = [value]
    for _ in range(levels + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [item for part in containers for item in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return False
    return True
