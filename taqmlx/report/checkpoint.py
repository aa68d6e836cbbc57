"""Bytes of each layer in the packed checkpoint, from the file's header."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taqmlx.planning.checkpoint_documents import LayerEntry
from taqmlx.store.errors import report_damage
from taqmlx.store.packed_checkpoint import PARTS
from taqmlx.store.tensors import open_tensors

BYTES = {"F16": 2, "BF16": 2, "F32": 4, "U32": 4, "I32": 4}
WORD = 32  # bits per word of packed codes
KERNEL = 4  # dimensions of a convolution's weight: out, height, width, in


def measure_layers(file: Path, prefix: str, layers: Mapping[str, LayerEntry]) -> dict[str, dict[str, int]]:
    """By layer name: `weights`, their number, and `bytes`, including codes, scales, zero points and migration.

    `layers` are those of the quantization config whose weights are `file`; `prefix` is the prefix of its tensor names.
    """
    with report_damage(file), open_tensors(file) as tensors:
        sizes = {key: measure_tensor(tensors.get_slice(key)) for key in tensors.keys()}  # noqa: SIM118
        measured = {}
        for name, layer in layers.items():
            parts = [sizes[key] for part in PARTS if (key := f"{prefix}{layer['path']}.{part}") in sizes]
            bits = layer["weight"]["bits"]
            elements = parts[0][0]
            measured[name] = {
                "weights": elements * WORD // bits if bits < 16 else elements,
                "bytes": sum(size for _, size in parts),
            }
    return measured


def measure_convolutions(file: Path) -> list[dict[str, int]]:
    """`weights` and `bytes` of each convolution kernel, the tensors with four dimensions."""
    with report_damage(file), open_tensors(file) as tensors:
        slices = [tensors.get_slice(key) for key in tensors.keys()]  # noqa: SIM118
        measured = [measure_tensor(found) for found in slices if len(found.get_shape()) == KERNEL]
    return [dict(zip(("weights", "bytes"), sizes, strict=True)) for sizes in measured]


def measure_tensor(tensor: Any) -> tuple[int, int]:
    """Number of elements and bytes of a tensor in an open file."""
    elements = 1
    for extent in tensor.get_shape():
        elements *= extent
    return elements, elements * BYTES[tensor.get_dtype()]
