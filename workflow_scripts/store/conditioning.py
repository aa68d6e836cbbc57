"""The prompts' encodings: one safetensors file with its seal, a JSON file of the same name, beside it.

`cs` (prompts, 2, tokens, width) and `cs_pooled` (prompts, 2, width), float32; of each pair the second is the negative.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workflow_scripts import plan
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file, write_atomically, write_json
from workflow_scripts.store.seal import Seal, check_origin, make_seal, read_file_seal

NAMES = ("cs", "cs_pooled")


def digest_prompt(cs: np.ndarray, cs_pooled: np.ndarray) -> str:
    """sha256 (hex) of one prompt's encodings, (2, tokens, width) and (2, width)."""
    digest = hashlib.sha256(np.ascontiguousarray(cs).data)
    digest.update(np.ascontiguousarray(cs_pooled).data)
    return digest.hexdigest()


def write_conditioning(
    path: Path,
    seal_path: Path,
    parameters: plan.Parameters,
    weights: dict[str, str],
    cs: np.ndarray,
    cs_pooled: np.ndarray,
) -> Seal:
    """Write the encodings of `parameters["prompts"]`, then their seal; `weights` are digests of the model's files."""
    write_atomically(path, lambda partial: save_file(dict(zip(NAMES, (cs, cs_pooled), strict=True)), partial))
    digests = {path.name: hash_file(path), "prompts": list(map(digest_prompt, cs, cs_pooled))}
    seal = make_seal(parameters, {"model": weights}, digests)
    write_json(seal_path, seal)
    return seal


@dataclass(frozen=True)
class Conditioning:
    """Sealed encodings, read prompt by prompt."""

    path: Path
    seal: Seal

    @property
    def weights(self) -> dict[str, str]:
        """sha256 of each file of the model that made them."""
        return self.seal["inputs"]["model"]

    def list_digests(self, indices: Sequence[int]) -> list[str]:
        """sha256 of the encodings of the prompts at `indices`."""
        return [self.seal["sha256"]["prompts"][index] for index in indices]

    def read_shapes(self) -> dict[str, list[int]]:
        """`cs_shape` and `cs_pooled_shape`."""
        with self._open() as file:
            return {f"{name}_shape": file.get_slice(name).get_shape() for name in NAMES}

    def read(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """`cs` and `cs_pooled` of the prompts at `indices`, verified. Raises UserError if the file is damaged."""
        with self._open() as file:
            slices = [file.get_slice(name) for name in NAMES]
            cs, cs_pooled = (np.stack([part[index] for index in indices]) for part in slices)
        if list(map(digest_prompt, cs, cs_pooled)) != self.list_digests(indices):
            raise UserError(
                f"{self.path} is not what {self.path.with_suffix('.json')} seals; delete both and run again"
            )
        return cs, cs_pooled

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with safe_open(self.path, framework="numpy") as file:
                yield file
        except (OSError, SafetensorError, IndexError) as error:
            raise UserError(f"{self.path} is missing or damaged ({error}); delete it and run again") from error


def list_inputs(conditioning: Conditioning, parameters: plan.Parameters) -> dict[str, Any]:
    """What a shard of `parameters` reads: the digests of its own prompts' encodings and of the model's files."""
    indices = sorted({prompt_index for _, prompt_index in parameters["rows"]})
    return {"conditioning": conditioning.list_digests(indices), "model": conditioning.weights}


def open_conditioning(path: Path, parameters: plan.Parameters) -> Conditioning:
    """The encodings in `path`, if made for the prompts, model and negative prompt of `parameters` (where it has them).

    Raises UserError if the seal is absent, damaged, or of other parameters.
    """
    seal_path = path.with_suffix(".json")
    seal = read_file_seal(seal_path)
    keys = ("model", "negative_prompt", "prompts")
    check_origin(seal, seal_path, {key: parameters[key] for key in keys if key in parameters}, {})
    return Conditioning(path, seal)
