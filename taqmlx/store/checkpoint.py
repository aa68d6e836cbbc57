"""Checkpoint of an unfinished shard: one file with a digest, replaced atomically.

First line: sha256 of the rest. Second line: JSON. Then the latents as little-endian float32.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from taqmlx.planning.plain_files import parse_json, read_plain
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import write_atomically


@dataclass(frozen=True)
class Checkpoint:
    """Progress of a shard.

    fingerprint: of the parameters and inputs; row: the first row of the batch in progress; step: its next step;
    digests: sha256 (hex) of the stored data of each row from 0; latents: (n, h, w, c) float32 before that step.
    """

    fingerprint: str
    row: int
    step: int
    digests: list[str]
    latents: np.ndarray


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at `path`; it is on disk on return."""
    latents = np.ascontiguousarray(checkpoint.latents, dtype="<f4")
    header = asdict(checkpoint) | {"latents": list(latents.shape)}
    content = json.dumps(header).encode() + b"\n" + latents.tobytes()
    write_atomically(path, lambda partial: partial.write_bytes(_digest(content) + b"\n" + content))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint at `path`. Raises UserError if it is missing or damaged."""
    try:
        digest, _, content = read_plain(path).partition(b"\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if digest != _digest(content):
        raise UserError(f"{path} is damaged")
    header, _, body = content.partition(b"\n")
    with report_damage(path):
        values = parse_json(header)
        values["latents"] = np.frombuffer(body, dtype="<f4").reshape(values["latents"])
        return Checkpoint(**values)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
