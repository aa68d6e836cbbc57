"""Artefacts of every kind with hostile content, and the promises of their readers.

A reader may accept a file or reject it with a UserError of at most two lines. It may not raise anything else, wait, or
use memory out of proportion to the files.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taqmlx.planning import plan
from taqmlx.runtime.entry import show_plainly
from taqmlx.store.errors import UserError
from tools.faults import mutations

SECONDS = 60  # that a reader may take
SPARE, FACTOR = 64 << 20, 40  # bytes of memory: in any case, and for each byte of the files
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Artefact:
    """A sound folder, made once; the files to change in it, as patterns; and what reads a copy of it."""

    pristine: Path
    patterns: tuple[str, ...]
    read: Callable[[Path], Any]

    def list_files(self) -> list[Path]:
        """The files to change, relative to the folder."""
        found = {path for pattern in self.patterns for path in self.pristine.glob(pattern) if path.is_file()}
        return sorted(path.relative_to(self.pristine) for path in found)


def damage(rng: random.Random, artefact: Artefact, copy: Path) -> str:
    """Make a copy and change one file of it; whatever vouches for that file is forged, most of the time."""
    shutil.copytree(artefact.pristine, copy, copy_function=os.link)
    path = copy / rng.choice(artefact.list_files())
    before = path.read_bytes()
    name = path.name
    kind = "document" if path.suffix == ".json" else "tensors" if path.suffix == ".safetensors" else "bytes"
    action = rng.randint(0, 9)
    if action == 0:
        mutations.mutate_place(rng, path)
        return f"{name}: something else in its place"
    if action == 1:
        mutations.replace(path, rng.choice(mutations.DOCUMENTS).encode("utf-8", "surrogatepass"))
    elif kind == "document":
        mutations.write_document(path, mutations.mutate_document(rng, json.loads(before)))
    elif kind == "tensors":
        mutations.replace(path, mutations.mutate_tensors(rng, before))
    elif name.startswith("c."):
        mutations.replace(path, mutations.mutate_chunk(rng, before))
    else:
        mutations.replace(path, mutations.mutate_bytes(rng, before))
    if rng.random() < 0.8:
        forge(copy, hash_bytes(before), hash_bytes(path.read_bytes()))
    return f"{name}: changed"


def hash_bytes(content: bytes) -> str:
    """sha256, as hex."""
    return hashlib.sha256(content).hexdigest()


def forge(folder: Path, before: str, after: str) -> None:
    """Let every document in `folder` name the digest `after` in place of `before`, and every seal be whole again."""
    for path in sorted(folder.rglob("*.json")):
        with contextlib.suppress(ValueError, RecursionError):
            text = path.read_text(encoding="utf-8")
            sealed = reseal(json.loads(text.replace(before, after)))
            mutations.write_document(path, sealed)


def reseal(value: Any) -> Any:
    """`value` with the fingerprint and checksum that belong to its content, where it had some."""
    if not isinstance(value, dict):
        return value
    if isinstance(attributes := value.get("attributes"), dict):
        return value | {"attributes": attributes | {"seal": reseal(attributes.get("seal"))}}
    if "checksum" not in value:
        return value
    content = {key: part for key, part in value.items() if key != "checksum"}
    if "fingerprint" in content:
        origin = {key: content.get(key) for key in ("parameters", "inputs")}
        content["fingerprint"] = plan.fingerprint(origin)
    return content | {"checksum": plan.fingerprint(content)}


def find_failure(read: Callable[[Path], Any], folder: Path) -> str:
    """What the reader does that it may not, in words, or an empty string."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    tracemalloc.start()
    try:
        with limit_time(SECONDS):
            read(folder)
    except UserError as error:
        if show_plainly(str(error)).count("\n") > 1:
            return f"says more than two lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return f"takes {peak >> 20} MiB for {size} bytes" if peak > SPARE + FACTOR * size else ""


@contextlib.contextmanager
def limit_time(seconds: int) -> Iterator[None]:
    """Raise TimeoutError within, after the given seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
