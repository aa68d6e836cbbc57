"""Prompt encodings: one safetensors file with its seal, a JSON file of the same name.

`cs` (prompts, 2, tokens, width) and `cs_pooled` (prompts, 2, width), float32; the second entry of each pair is the
negative prompt.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from taqmlx.planning import plan
from taqmlx.planning.documents import Inputs
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.preflight import check_disk
from taqmlx.store.seal import Seal, check_origin, read_file_seal, write_file_seal
from taqmlx.store.tensors import open_tensors, reject_nonfinite, stream_tensors

NAMES = ("cs", "cs_pooled")
Encoding = tuple[np.ndarray, np.ndarray]  # one prompt: (2, tokens, width) and (2, width), float32


def digest_prompt(cs: np.ndarray, cs_pooled: np.ndarray) -> str:
    """sha256 (hex) of one prompt's encodings, (2, tokens, width) and (2, width)."""
    digest = hashlib.sha256(np.ascontiguousarray(cs).data)
    digest.update(np.ascontiguousarray(cs_pooled).data)
    return digest.hexdigest()


def write_conditioning(
    path: Path, parameters: plan.Parameters, weights: dict[str, str], encodings: Iterable[Encoding]
) -> Seal:
    """Write the encodings of `parameters["prompts"]`, then their seal; `weights` are digests of the model's files.

    Memory holds `cs` of one prompt at a time and `cs_pooled` of all prompts.
    """
    encodings = iter(encodings)
    first = next(encodings)
    shapes = {name: (len(parameters["prompts"]), *part.shape) for name, part in zip(NAMES, first, strict=True)}
    prompts, pooled = [], []

    def order_parts() -> Iterator[np.ndarray]:
        for cs, cs_pooled in chain([first], encodings):
            prompts.append(digest_prompt(cs, cs_pooled))
            pooled.append(cs_pooled)
            yield cs
        yield from pooled

    size = sum(4 * math.prod(shape) for shape in shapes.values())
    check_disk(path.parent, size, "choose a results_dir elsewhere")
    stream_tensors(path, shapes, np.float32, order_parts())
    return write_file_seal(path, parameters, {"model": weights}, prompts=prompts)


@dataclass(frozen=True)
class Conditioning:
    """Sealed encodings, read by prompt."""

    path: Path
    seal: Seal

    @property
    def weights(self) -> dict[str, str]:
        """sha256 of each file of the model that computed the encodings."""
        with report_damage(self.path):
            digests: dict[str, str] = self.seal["inputs"]["model"]
            return digests

    def check_weights(self, digests: dict[str, str]) -> None:
        """Raise UserError unless the model's files with these `digests` computed the encodings."""
        if digests != self.weights:
            raise UserError(f"{self.path} was made with other weights of the model; delete it and run again")

    def list_digests(self, indices: Sequence[int]) -> list[str]:
        """sha256 of the encodings of the prompts at `indices`."""
        with report_damage(self.path):
            return [self.seal["sha256"]["prompts"][index] for index in indices]

    def read_shapes(self) -> dict[str, list[int]]:
        """`cs_shape` and `cs_pooled_shape`."""
        with open_tensors(self.path) as file:
            return {f"{name}_shape": file.get_slice(name).get_shape() for name in NAMES}

    def read(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Read and verify `cs` and `cs_pooled` of the prompts at `indices`.

        Raises UserError if the file is damaged or the values are not finite.
        """
        with open_tensors(self.path) as file:
            slices = [file.get_slice(name) for name in NAMES]
            with report_damage(self.path):
                cs, cs_pooled = (np.stack([part[index] for index in indices]) for part in slices)
        if list(map(digest_prompt, cs, cs_pooled)) != self.list_digests(indices):
            raise UserError(f"{self.path} does not match {self.path.with_suffix('.json')}; delete both and run again")
        reject_nonfinite(self.path, dict(zip(NAMES, (cs, cs_pooled), strict=True)), f"delete {self.path} and run again")
        return cs, cs_pooled


def list_inputs(conditioning: Conditioning, rows: Iterable[Sequence[int]]) -> Inputs:
    """Inputs of a shard, given its pairs of trajectory and prompt index: digests of its own prompts' encodings and of
    the model's files.
    """
    indices = sorted({prompt_index for _, prompt_index in rows})
    return {"conditioning": conditioning.list_digests(indices), "model": conditioning.weights}


def open_conditioning(path: Path, parameters: plan.Parameters) -> Conditioning:
    """Open the encodings at `path` and check prompts, model and negative prompt against `parameters` (where present).

    Raises UserError if the seal is absent, damaged, or of other parameters.
    """
    seal_path = path.with_suffix(".json")
    seal = read_file_seal(seal_path)
    keys = ("model", "negative_prompt", "prompts")
    check_origin(seal, seal_path, {key: parameters[key] for key in keys if key in parameters}, {})
    return Conditioning(path, seal)
