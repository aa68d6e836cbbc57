"""Layer inputs of a model, by block, stream and role."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from taqmlx.planning.layers import BLOCK_KINDS, STREAMS

IN_BLOCK = re.compile(
    rf"(?P<block>(?:{'|'.join(BLOCK_KINDS)})_\d+)\.(?P<stream>\w+)\.(?:attn|mlp)\.(?P<role>qkv|o_proj|fc1|fc2)"
)
ROLES = {"qkv": "q, k, v", "o_proj": "o_proj (attention output)", "fc1": "fc1", "fc2": "fc2 (after GELU)"}


class LayerName(NamedTuple):
    """Location of an input; block, stream and role are empty outside the blocks."""

    name: str
    block: str
    stream: str
    role: str


def parse_name(name: str) -> LayerName:
    """Parse the location of an input from its name: `mm_00.image.mlp.fc2`, or `context_embedder`."""
    found = IN_BLOCK.fullmatch(name)
    return LayerName(name, *found.group("block", "stream", "role")) if found else LayerName(name, "", "", "")


def parse_names(names: Iterable[str]) -> list[LayerName]:
    """Locations of inputs, in the order of the names."""
    return [parse_name(name) for name in names]


def keep_inside(series: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of inputs in blocks, which are quantized; all entries if there are no blocks."""
    return {name: values for name, values in series.items() if parse_name(name).block} or dict(series)


def list_block_names(places: Iterable[LayerName]) -> list[str]:
    """Block names, multimodal blocks first."""
    return sorted({place.block for place in places if place.block})


def list_stream_names(places: Iterable[LayerName]) -> list[str]:
    """Stream names of the blocks, image first."""
    found = {place.stream for place in places if place.block}
    return [stream for stream in STREAMS if stream in found]


def list_outside(places: Iterable[LayerName]) -> list[str]:
    """Inputs outside the blocks: of embedders, the modulation and the final layer."""
    return [place.name for place in places if not place.block]


def select(places: Iterable[LayerName], stream: str, role: str) -> list[LayerName]:
    """Inputs of one stream and role, in block order."""
    return sorted((p for p in places if (p.stream, p.role) == (stream, role)), key=lambda place: place.block)


def find_nearest(steps: Sequence[int], wanted: int) -> int:
    """Index of the step nearest to `wanted`; the earlier of two."""
    return int(np.abs(np.asarray(steps) - wanted).argmin())


def shorten(name: str) -> str:
    """Shorten a name by parts that its location does not need: `mm_03.image.fc2`, `t_embedder.0`."""
    return re.sub(r"\.attn|\.mlp(\.layers)?", "", name)
