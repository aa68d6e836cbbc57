"""File of the folds: `<results>/folds.safetensors`, which holds its own digest.

Tensors, by fold `<input>.<kind>`: `.vector`, as in `mmdit/folds.py`; `.before` and `.after` float32 (D,), absmax of the
input's channels over the calibration rows. Its metadata has the parameters and inputs of its stage and, under `folds`,
the folds in the order in which they are applied, with their errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.planning import plan
from taqmlx.planning.documents import Inputs
from taqmlx.planning.folds import FoldKind
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.tensors import read_sealed_tensors, write_sealed_tensors

PARTS = ("vector", "before", "after")


@dataclass(frozen=True)
class Fold:
    """A fold that is kept: input and kind, vector (D,), and absmax (D,) of the input's channels before and after it.

    errors: of the block outputs on held-out rows, relative to their power and summed over the streams, without and with
    the fold, with the readers rounded.
    """

    site: str
    kind: FoldKind
    vector: np.ndarray
    before: np.ndarray
    after: np.ndarray
    errors: tuple[float, float]


@dataclass(frozen=True)
class FoldsFile:
    """Folds in the order of their application; fingerprint of the file; digests of the model's files."""

    folds: list[Fold]
    fingerprint: str
    model: dict[str, str]


def write_folds(path: Path, folds: list[Fold], parameters: plan.Parameters, inputs: Inputs) -> None:
    """Write the folds of a stage with `parameters` and `inputs`."""
    arrays, named = pack_folds(folds)
    write_sealed_tensors(path, arrays, {"parameters": parameters, "inputs": dict(inputs), "folds": named})


def pack_folds(folds: list[Fold]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Arrays of the folds by name, and their other values in order."""
    named = [{"site": fold.site, "kind": fold.kind, "errors": list(fold.errors)} for fold in folds]
    arrays = {f"{fold.site}.{fold.kind}.{part}": getattr(fold, part) for fold in folds for part in PARTS}
    # A file without tensors cannot be read.
    return arrays or {"none": np.zeros(1, np.float32)}, named


def unpack_folds(arrays: Mapping[str, np.ndarray], named: Sequence[Mapping[str, Any]]) -> list[Fold]:
    """The folds of what `pack_folds` returns."""
    return [
        Fold(
            site=own["site"],
            kind=own["kind"],
            errors=tuple(own["errors"]),
            **{part: arrays[f"{own['site']}.{own['kind']}.{part}"] for part in PARTS},
        )
        for own in named
    ]


def read_folds(path: Path) -> FoldsFile:
    """Read the folds in `path`. Raises UserError if it is missing or damaged."""
    arrays, about = read_sealed_tensors(path)
    with report_damage(path):
        folds = unpack_folds(arrays, about["folds"])
        vectors = {f"{fold.site}.{fold.kind}": fold.vector.tolist() for fold in folds}
        return FoldsFile(folds, plan.fingerprint([list(vectors), vectors]), about["inputs"]["model"])


def holds_folds(path: Path, parameters: plan.Parameters, inputs: Inputs) -> bool:
    """True if `path` has the folds of a stage with `parameters` and `inputs`, False if it is absent.

    Raises UserError if it is damaged or was made from something else.
    """
    if not path.exists():
        return False
    about = read_sealed_tensors(path)[1]
    for kind, wanted in (("parameters", parameters), ("inputs", inputs)):
        if difference := plan.describe_difference(about.get(kind), wanted):
            raise UserError(f"{path} was made with other {kind} ({difference}); delete it and run again")
    return True
