"""Folds: exact transforms of layer inputs that the weights before and after them take up. Standard library only.

The function of the model stays the same. A transform of an input is undone in the columns of the layers that read it,
and made in what writes it: the adaLN rows of a modulated norm, the values of the attention, or the rows of fc1.
SmoothQuant (Xiao et al. 2023, arXiv 2211.10438), AWQ (Lin et al. 2024, arXiv 2306.00978), PTQ4DiT (Wu et al. 2024,
arXiv 2405.16005), Outlier Suppression+ (Wei et al. 2023, arXiv 2304.09145, the centres) and QuaRot (Ashkboos et al.
2024, arXiv 2404.00456) have such transforms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Literal, TypedDict

from taqmlx.planning.layers import (
    AFTER_GELU,
    READS_QKV,
    Layer,
    create_modulation_layer,
    list_stream_linears,
    list_streams,
)

FoldKind = Literal["scale", "centre", "permutation", "rotation"]
ATTENTION, MLP = 0, 3  # index of the first adaLN output (shift, scale and gate) of a half of a block

# Roles of the layers whose inputs a fold of each kind can transform. A permutation between a norm and its readers would
# reorder the residual stream, and a scale per channel stands between them, which a rotation does not commute with. GELU
# commutes with permutations only. A centre needs a bias in each reader, which keys do not have.
FOLDED_ROLES: dict[FoldKind, tuple[str, ...]] = {
    "scale": ("qkv", "fc1", "o"),
    "centre": ("fc1", "o"),
    "permutation": ("o", AFTER_GELU),
    "rotation": ("o",),
}

# Vectors that a search tries for an input, by kind.
CANDIDATES: dict[FoldKind, int] = {"scale": 6, "centre": 2, "permutation": 3, "rotation": 2}


class FoldPattern(TypedDict):
    """A fold of the inputs of the layers whose names match the pattern `layers`."""

    layers: str
    kind: FoldKind


@dataclass(frozen=True)
class Site:
    """A layer input that can be transformed.

    name: of the input; readers: the layers that read it; writers: the layers that make it; part: index of the shift
    among the outputs of the adaLN layer, if that is the writer. The input of o_proj is the same for image and text.
    """

    name: str
    block: str
    role: str
    readers: tuple[Layer, ...]
    writers: tuple[Layer, ...]
    part: int = ATTENTION


def list_sites(depth_multimodal: int, depth_unified: int = 0) -> list[Site]:
    """The inputs of all blocks that can be transformed, in forward order."""
    sites = []
    for block, streams in groupby(list_streams(depth_multimodal, depth_unified), lambda stream: stream.block):
        inner, values, outputs = [], [], []
        for stream in streams:
            prefix = f"{block}.{stream.name}"
            linears = {layer.name.removeprefix(f"{prefix}."): layer for layer in list_stream_linears(stream)}
            modulation = (create_modulation_layer(prefix, stream.path, block, stream.name),)
            shared = tuple(layer for layer in linears.values() if layer.role in READS_QKV[stream.name])
            inner.append(Site(shared[0].input, block, "qkv", shared, modulation))
            values.append(linears["attn.v_proj"])
            if stream.reaches_output:
                outputs.append(linears["attn.o_proj"])
                fc1, fc2 = linears["mlp.fc1"], linears["mlp.fc2"]
                if fc1 not in shared:
                    inner.append(Site(fc1.input, block, "fc1", (fc1,), modulation, MLP))
                inner.append(Site(fc2.input, block, AFTER_GELU, (fc2,), (fc1,)))
        sites += [*inner, Site(f"{block}.attn.o_proj", block, "o", tuple(outputs), tuple(values))]
    return sites


def select_sites(sites: Sequence[Site], pattern: FoldPattern) -> list[Site]:
    """The sites that a fold transforms: those of its kind with a reader whose name matches."""
    return [
        site
        for site in sites
        if site.role in FOLDED_ROLES[pattern["kind"]]
        and any(fnmatchcase(layer.name, pattern["layers"]) for layer in site.readers)
    ]


def list_folds(sites: Sequence[Site], patterns: Sequence[FoldPattern], block: str) -> list[tuple[Site, FoldKind]]:
    """The folds of a block in the order of `patterns`, each once."""
    own = [site for site in sites if site.block == block]
    return list(dict.fromkeys((site, pattern["kind"]) for pattern in patterns for site in select_sites(own, pattern)))


def count_passes(kind: FoldKind, held_out: float) -> float:
    """Passes over the rows of a block by the search of a fold, at most: what a fold takes that is kept.

    held_out: share of the rows that only measure errors. The others are observed before and after the fold. Their error
    takes two passes, the first only for inputs with stored step sizes: without a fold, and with each candidate. Two
    more of each sort of rows give the held-out errors without and with the best one.
    """
    return (6 + 2 * CANDIDATES[kind]) * (1 - held_out) + 2 * held_out
