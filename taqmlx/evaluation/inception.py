"""The Inception v3 that defines FID: the network of 2015, in the layout of torch-fidelity's weight file.

Szegedy et al. 2015 (arXiv 1512.00567). Differences from torchvision's: average pooling excludes padding, the last block
uses max pooling, and pictures are resized as in TensorFlow 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from taqmlx.evaluation.weights import fill, read_state
from taqmlx.planning.evaluation_documents import FeatureSource

SIZE, FEATURES, BATCH = 299, 2048, 32
RESIZE = f"bilinear to {SIZE} x {SIZE}, as TensorFlow 1 did"

# One unit of a branch: name, output channels, kernel, padding, stride.
Unit = tuple[str, int, int | tuple[int, int], int | tuple[int, int], int]
ROW, COLUMN = ((1, 7), (0, 3)), ((7, 1), (3, 0))
WIDE, TALL = ((1, 3), (0, 1)), ((3, 1), (1, 0))


class ConvolutionUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Any, padding: Any, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(self.conv(x)))


def pool_average(x: torch.Tensor) -> torch.Tensor:
    """3 x 3 average pooling that excludes padding."""
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def pool_largest(x: torch.Tensor) -> torch.Tensor:
    """3 x 3 max pooling of stride 1."""
    return functional.max_pool2d(x, 3, 1, 1)


def pool_halving(x: torch.Tensor) -> torch.Tensor:
    """3 x 3 max pooling of stride 2."""
    return functional.max_pool2d(x, 3, 2)


class Mixed(nn.Module):
    """Parallel branches, then the pooling branch; units of a branch in one list share an input and are concatenated."""

    def __init__(self, inputs: int, branches: Sequence[Sequence[Unit | list[Unit]]], pool: Any, pooled: int):
        super().__init__()
        self.branches, self.pool, self.pooled = branches, pool, pooled
        for branch in branches:
            width = inputs
            for unit in branch:
                for name, outputs, *shape in unit if isinstance(unit, list) else [unit]:
                    self.add_module(name, ConvolutionUnit(width, outputs, *shape))
                width = outputs
        if pooled:
            self.branch_pool = ConvolutionUnit(inputs, pooled, 1, 0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for branch in self.branches:
            y = x
            for unit in branch:
                units = unit if isinstance(unit, list) else [unit]
                y = torch.cat([self.get_submodule(name)(y) for name, *_ in units], 1)
            parts.append(y)
        shrunk = self.pool(x)
        return torch.cat([*parts, self.branch_pool(shrunk) if self.pooled else shrunk], 1)


def build_a(inputs: int, pooled: int) -> Mixed:
    """Blocks at 35 x 35."""
    fives = [("branch5x5_1", 48, 1, 0, 1), ("branch5x5_2", 64, 5, 2, 1)]
    threes = [("branch3x3dbl_1", 64, 1, 0, 1), ("branch3x3dbl_2", 96, 3, 1, 1), ("branch3x3dbl_3", 96, 3, 1, 1)]
    return Mixed(inputs, [[("branch1x1", 64, 1, 0, 1)], fives, threes], pool_average, pooled)


def build_b(inputs: int) -> Mixed:
    """Reduction from 35 x 35 to 17 x 17."""
    threes = [("branch3x3dbl_1", 64, 1, 0, 1), ("branch3x3dbl_2", 96, 3, 1, 1), ("branch3x3dbl_3", 96, 3, 0, 2)]
    return Mixed(inputs, [[("branch3x3", 384, 3, 0, 2)], threes], pool_halving, 0)


def build_c(width: int) -> Mixed:
    """Blocks at 17 x 17 with `width` inner channels."""
    sevens = [
        ("branch7x7_1", width, 1, 0, 1),
        ("branch7x7_2", width, *ROW, 1),
        ("branch7x7_3", 192, *COLUMN, 1),
    ]
    doubles = [
        ("branch7x7dbl_1", width, 1, 0, 1),
        ("branch7x7dbl_2", width, *COLUMN, 1),
        ("branch7x7dbl_3", width, *ROW, 1),
        ("branch7x7dbl_4", width, *COLUMN, 1),
        ("branch7x7dbl_5", 192, *ROW, 1),
    ]
    return Mixed(768, [[("branch1x1", 192, 1, 0, 1)], sevens, doubles], pool_average, 192)


def build_d() -> Mixed:
    """Reduction from 17 x 17 to 8 x 8."""
    threes = [("branch3x3_1", 192, 1, 0, 1), ("branch3x3_2", 320, 3, 0, 2)]
    sevens = [
        ("branch7x7x3_1", 192, 1, 0, 1),
        ("branch7x7x3_2", 192, *ROW, 1),
        ("branch7x7x3_3", 192, *COLUMN, 1),
        ("branch7x7x3_4", 192, 3, 0, 2),
    ]
    return Mixed(768, [threes, sevens], pool_halving, 0)


def build_e(inputs: int, pool: Any) -> Mixed:
    """Blocks at 8 x 8."""
    threes = [("branch3x3_1", 384, 1, 0, 1), [("branch3x3_2a", 384, *WIDE, 1), ("branch3x3_2b", 384, *TALL, 1)]]
    doubles = [
        ("branch3x3dbl_1", 448, 1, 0, 1),
        ("branch3x3dbl_2", 384, 3, 1, 1),
        [("branch3x3dbl_3a", 384, *WIDE, 1), ("branch3x3dbl_3b", 384, *TALL, 1)],
    ]
    return Mixed(inputs, [[("branch1x1", 320, 1, 0, 1)], threes, doubles], pool, 192)


class Inception(nn.Module):
    """The network up to its 2048 pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvolutionUnit(3, 32, 3, 0, 2)
        self.Conv2d_2a_3x3 = ConvolutionUnit(32, 32, 3, 0, 1)
        self.Conv2d_2b_3x3 = ConvolutionUnit(32, 64, 3, 1, 1)
        self.MaxPool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvolutionUnit(64, 80, 1, 0, 1)
        self.Conv2d_4a_3x3 = ConvolutionUnit(80, 192, 3, 0, 1)
        self.MaxPool_2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = build_a(192, 32), build_a(256, 64), build_a(288, 64)
        self.Mixed_6a = build_b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d = build_c(128), build_c(160), build_c(160)
        self.Mixed_6e, self.Mixed_7a = build_c(192), build_d()
        self.Mixed_7b, self.Mixed_7c = build_e(1280, pool_average), build_e(2048, pool_largest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, 2048) of pictures (n, 3, 299, 299) in 0 to 255."""
        x = (x - 128) / 128
        for module in self.children():
            x = module(x)
        return x.mean(dim=(2, 3))


class InceptionFeatures:
    """Inception features, with the weight file of the configuration. Raises UserError if it is missing or differs."""

    def __init__(self, source: FeatureSource):
        self.network = fill("inception", Inception(), read_state("inception", source))
        self.about = {"network": "Inception v3", "weights_sha256": source["sha256"], "resize": RESIZE}

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Features (n, 2048) float32 of RGB pictures of any size."""
        resized = torch.cat([resize_as_tensorflow(np.asarray(image), SIZE) for image in images])
        with torch.inference_mode():
            return torch.cat([self.network(part) for part in resized.split(BATCH)]).numpy()


def resize_as_tensorflow(picture: np.ndarray, size: int) -> torch.Tensor:
    """Resize a picture (h, w, 3) to (1, 3, size, size) float32: bilinear from the corner, without antialiasing."""
    x = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]  # (1, 3, h, w)
    for axis in (2, 3):
        length = x.shape[axis]
        place = torch.arange(size) * (length / size)
        low = place.floor().long()
        share = (place - low).reshape(-1, *[1] * (3 - axis))
        near, far = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=length - 1))
        x = near + (far - near) * share
    return x
