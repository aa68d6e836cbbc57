"""Hostile changes to a document or a file. All draws come from `rng`, a `random.Random` or Hypothesis's own."""

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

HALF = "\ud800"  # of a character
NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**63 - 1, -(2**70), 10**12, 10**400),
    *(0.5, -0.0, 1e-400, 1e308, math.nan, math.inf, -math.inf),
    *("", " ", "\0", "a\nb", HALF, "x" * 20_000, "../x", "../../etc/passwd", "/etc/passwd", "~", ".", "..", "-rf"),
    *("$(touch pwned)", "`touch pwned`; &", "{shard}", "<results>", "%s", "\x1b]0;x\x07", "<script>", "__class__"),
    *([], {}, [[]], [None], {"": ""}, {"a": {"a": {"a": {}}}}, [0] * 2000, ["a", 1, None], {"__class__": "os.system"}),
]
# Text that is no document any writer leaves.
DOCUMENTS = [
    *("", "null", "0", '""', "[]", "{}", "{", "[1,]", '{"a":1,"a":2}', "NaN", "[Infinity]", "1e400", "1" * 5000),
    *('"\\ud800"', "[" * 100_000, '{"a":' * 100_000, "[" * 800 + "]" * 800, '{"a":' * 60 + "1" + "}" * 60),
    *("\ufeff{}", "// {}", "!!python/object/apply:os.system ['touch pwned']"),
]


def mutate_document(rng: random.Random, value: Any) -> Any:
    """`value` with one to three of its parts changed, removed, doubled, or moved."""
    for _ in range(rng.randint(1, 3)):
        value = mutate_part(rng, value)
    return value


def mutate_part(rng: random.Random, value: Any) -> Any:
    """`value` with one part changed; the way down to it is drawn."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        changed = dict(value) if isinstance(value, dict) else list(value)
        action = rng.randint(0, 9)
        if action == 0:
            del changed[key]
        elif action == 1 and isinstance(changed, dict):
            changed[rng.choice(["", "x", "../x", HALF, "__proto__"])] = changed[key]
        elif action == 1:
            changed.append(changed[key])
        elif action == 2:
            changed[key] = changed[rng.choice(keys)]
        else:
            changed[key] = mutate_part(rng, changed[key])
        return changed
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.3:
        return rng.choice([value + 1, -value, str(value), value * 10**6, [value]])
    return rng.choice(NASTY)


def write_document(path: Path, value: Any) -> None:
    """Write what Python takes for JSON, whether or not it is."""
    replace(path, json.dumps(value).encode("utf-8", "surrogatepass"))


def replace(path: Path, content: bytes) -> None:
    """Put a new file in place of `path`, which may be linked to elsewhere."""
    path.unlink()
    path.write_bytes(content)


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """`content` cut, grown, or with bytes of it changed."""
    if not content:
        return b"\0" * rng.randint(1, 64)
    place = rng.randint(0, len(content) - 1)
    action = rng.randint(0, 4)
    if action == 0:
        return content[:place]
    if action == 1:
        return content[:place] + bytes([content[place] ^ (1 << rng.randint(0, 7))]) + content[place + 1 :]
    if action == 2:
        return content[: place // 64] + rng.choice([b"\xff" * 8, b"\0" * 8, b"\x80"]) + content[place // 64 + 8 :]
    if action == 3:
        return content + content[:place]
    return b""


def mutate_tensors(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with a lying header, or with other tensors than those it had."""
    action = rng.randint(0, 3)
    if action == 0:
        return mutate_bytes(rng, content)
    length = int.from_bytes(content[:8], "little")
    if action == 1:
        header = json.dumps(mutate_document(rng, json.loads(content[8 : 8 + length]))).encode()
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    if action == 2:
        lie = rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63 - 1, 2**64 - 1])
        return lie.to_bytes(8, "little") + content[8:]
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__")
    try:
        arrays = load(content)
    except SafetensorError:
        return content
    for _ in range(min(rng.randint(1, 3), len(arrays))):
        name = rng.choice(sorted(arrays))
        arrays[name] = mutate_array(rng, arrays[name])
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)


def mutate_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """An array of another type, shape or content."""
    with np.errstate(all="ignore"):
        changed = [
            lambda: array.astype(rng.choice([np.float64, np.float16, np.uint8, np.int64, np.bool_])),
            lambda: array.reshape(-1),
            lambda: array[:0],
            lambda: array.reshape(-1)[:1],
            lambda: array[None],
            lambda: np.full_like(array, np.nan) if array.dtype.kind == "f" else np.full_like(array, 0),
            lambda: np.full_like(array, np.inf) if array.dtype.kind == "f" else array[::-1],
            lambda: -array if array.dtype.kind in "fi" else array[::-1],
            lambda: np.zeros_like(array),
        ]
        return rng.choice(changed)()


def mutate_chunk(rng: random.Random, content: bytes) -> bytes:
    """A chunk whose checksum is right and whose Blosc header lies, or any other bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    body = bytearray(content[:-4])
    place = rng.randint(0, min(15, len(body) - 1))
    body[place : place + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0"])
    return bytes(body) + google_crc32c.value(bytes(body)).to_bytes(4, "little")


def mutate_place(rng: random.Random, path: Path) -> None:
    """Something else where a file should be: nothing, a folder, a pipe that never ends, a link."""
    path.unlink()
    action = rng.randint(0, 5)
    if action == 1:
        path.mkdir()
    elif action == 2:
        os.mkfifo(path)
    elif action >= 3:
        path.symlink_to(["/dev/zero", "/etc/passwd", path.name][action - 3])
