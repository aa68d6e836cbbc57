"""Checkpoint tensors: dtypes, names and shapes are checked before use.

Only headers are read for the checks; tensor data is read on use.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from taqmlx.models.layouts import recognise_bytes, recognise_tensors
from taqmlx.models.weight_files import TITLES, Located
from taqmlx.store.errors import UNFIT, UserError
from taqmlx.store.safetensors_header import WEIGHT_TYPES, StoredTensor, describe_names, find_coded, read_header

Tensors = dict[str, mx.array]


def read_headers(located: Located) -> dict[str, StoredTensor]:
    """Read the headers of a file's shards. Raises UserError for one that is truncated or not a safetensors file."""
    stored: dict[str, StoredTensor] = {}
    for path in located.list_shards().values():
        try:
            stored |= read_header(path, located.explain_renewal(path))
        except UserError:
            if layout := recognise_bytes(path):
                raise UserError(f"{path} is {layout.name}; {layout.advice}:\n  {located.download}") from None
            raise
    return stored


def count_weights(located: Located) -> int:
    """Number of values in a file. Raises UserError as `read_headers`."""
    return sum(math.prod(about.shape) for about in read_headers(located).values())


def read_tensors(located: Located, prefix: str = "", unread: str = "") -> Tensors:
    """Read the tensors whose names begin with `prefix`, except those that match the regular expression `unread`.

    Raises UserError if there are none, or if one is not stored as fp16, bf16 or fp32.
    """
    stored = read_headers(located)
    chosen = {
        name: about
        for name, about in stored.items()
        if name.startswith(prefix) and not (unread and re.search(unread, name))
    }
    if not chosen:
        raise explain(located, f"it has no tensors {prefix}*")
    if coded := find_coded(chosen):
        raise explain(located, describe_coded(coded))
    try:
        parts = [mx.load(str(path), format="safetensors") for path in located.list_shards().values()]
    except RuntimeError as error:  # MLX rejects any file with certain dtypes in it, even if those tensors are not read
        coded = {name: kind for name, kind in find_coded(stored).items() if kind in str(error)}
        raise explain(located, describe_coded(coded) if coded else f"MLX cannot open it: {error}") from None
    return {name: part[name] for part in parts for name in part if name in chosen}


def describe_coded(coded: dict[str, str]) -> str:
    """Describe the rejected tensors and their dtype, and list the supported dtypes."""
    first, *rest = coded
    more = f" and {len(rest)} more tensors" if rest else ""
    return f"it stores {first}{more} as {coded[first]}, and {', '.join(WEIGHT_TYPES)} are read"


def fill_module(
    module: nn.Module, located: Located, tensors: Tensors, adjust: Callable[[Tensors], Tensors], dtype: mx.Dtype
) -> nn.Module:
    """Load `module` for inference with the file's tensors, renamed by `adjust` and cast to `dtype`.

    Raises UserError, naming the tensors, for names and shapes that differ from the module's.
    """
    try:
        weights = adjust(tensors)
    except KeyError as error:
        raise explain(located, f"it lacks {error.args[0]}") from None
    except UNFIT as error:
        raise explain(located, f"DiffusionKit cannot parse it: {error}") from None
    sources = {id(value): name for name, value in tensors.items()}  # most tensors are only renamed
    stored = {name: sources.get(id(value), name) for name, value in weights.items()}
    if difference := describe_difference(dict(tree_flatten(module.parameters())), weights, stored):
        raise explain(located, f"it {difference}")
    module.load_weights([(name, value.astype(dtype)) for name, value in weights.items()])
    module.eval()
    return module


def describe_difference(wanted: Tensors, found: Tensors, stored: dict[str, str]) -> str:
    """Describe missing, surplus and misshapen tensors of `found` compared with `wanted`, with counts; empty if none.

    `stored` maps names to those in the file; missing tensors have no entry.
    """
    lacking, surplus = (
        sorted(wanted.keys() - found.keys()),
        sorted(stored[name] for name in found.keys() - wanted.keys()),
    )
    misshapen = [
        f"{stored[name]} of shape {found[name].shape} instead of {value.shape}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    parts = {
        f"lacks {len(lacking)} of DiffusionKit's tensors": lacking,
        f"has {len(surplus)} surplus ones": surplus,
        f"has {len(misshapen)} of other shapes": misshapen,
    }
    return ", ".join(f"{count} ({describe_names(names)})" for count, names in parts.items() if names)


@contextmanager
def reject_damage(located: Located) -> Iterator[None]:
    """Turn exceptions from parsing a file other than weights into a UserError that names it."""
    try:
        yield
    except (OSError, *UNFIT) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"{located.place} is damaged ({reason}); {located.explain_renewal(located.place)}") from error


def explain(located: Located, fault: str) -> UserError:
    """Build a two-line error: the recognised file type, the fault and the remedy; then the download command."""
    file, command = located.file, f"\n  {located.download}"
    if layout := recognise_tensors(read_headers(located), located.place, file.name):
        return UserError(f"{located.place} is {layout.name}; {layout.advice} ({fault}):{command}")
    owner = TITLES.get(file.repo, file.repo)
    return UserError(f"{located.place} is not the {file.name} of {owner}: {fault}; get it:{command}")
