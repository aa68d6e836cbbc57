"""Export of trained torch weights to the fp16 files loaded by DiffusionKit's MLX classes."""

from pathlib import Path

import torch
from torch import Tensor

from taqmlx.store.checksum_files import checksummed
from taqmlx.training.loop import write_tensors


def to_mlx(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """fp16 copies under the same names; convolution kernels (out, in, h, w) become (out, h, w, in)."""
    return {
        name: (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).half().contiguous()
        for name, value in weights.items()
    }


def export_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write the weights to `path`. Raises ValueError if one of them does not fit fp16."""
    converted = to_mlx(weights)
    for name, value in converted.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} is not finite in fp16")
    with checksummed(path):
        write_tensors(converted, path)
