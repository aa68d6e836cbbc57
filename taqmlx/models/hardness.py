"""Outliers of the model `embedded-hard`: which layer inputs have them, and how large they are.

The magnitudes follow Stable Diffusion 3 Medium, whose 24 blocks are mapped on the first four of the five here; the last
block, as there, ends the text. Factors are powers of two, so that scaling rounds nothing. Units come before scales and
offsets, which change the rows of the units too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import mlx.core as mx
import numpy as np

from taqmlx.models import outliers
from taqmlx.models.outliers import READERS, Weights
from taqmlx.planning.plain_files import read_plain_json
from taqmlx.planning.plan import fingerprint

# Directions (D,) of the input of fc1, by stream, along which the first token lies beyond all others: linear
# discriminants of the tokens of 16 captions and of the empty one, at 6 noise levels, rounded to integers.
FIRST_TOKEN: dict[str, list[int]] = read_plain_json(Path(__file__).parent / "embedded_model" / "first_token.json")
SMALLER = 0.6  # exponent of the factor of the channels beside the largest one
BESIDE = 3  # number of these
LARGEST = 10.0  # of an existing unit before its GELU, about


def choose_factors(channels: np.ndarray, factor: float) -> np.ndarray:
    """Factors (D,): `factor` for the first of `channels` (D,), a smaller one for the BESIDE next ones, 1 for others."""
    factors = np.ones(len(channels))
    factors[channels[0]] = factor
    factors[channels[1 : 1 + BESIDE]] = 2.0 ** round(SMALLER * np.log2(factor))
    return factors


def find_path(stream: str) -> str:
    """Path of a stream such as `mm_00.text`, or of the final layer, in DiffusionKit's tree."""
    block, _, name = stream.partition(".")
    return f"multimodal_transformer_blocks.{int(block[3:])}.{name}_transformer_block" if name else block


class Row(Protocol):
    """A row of the table: outliers of one layer input, of the kind `part`."""

    part: ClassVar[str]

    def apply(self, weights: Weights) -> None:
        """Change the transformer's weights; its function stays the same."""


@dataclass(frozen=True)
class FirstTokenUnits:
    """Pairs of equal units that fire at the first token only; their output columns cancel."""

    part: ClassVar[str] = "spike"
    stream: str
    pairs: int
    threshold: float
    gain: float
    seed: int

    def apply(self, weights: Weights) -> None:
        path, rng = find_path(self.stream), np.random.default_rng(self.seed)
        row = self.gain * np.array(FIRST_TOKEN[self.stream], np.float64)
        columns = weights[f"{path}.mlp.fc2.weight"][:, outliers.draw_units(weights, path, self.pairs, rng)]
        outliers.add_units(
            weights,
            path,
            np.tile(row, (2 * self.pairs, 1)),
            np.full(2 * self.pairs, -self.gain * self.threshold),
            np.concatenate([columns, -columns], axis=1),
            np.zeros(len(columns)),
        )


@dataclass(frozen=True)
class AlwaysOnUnits:
    """Pairs of units that GELU passes unchanged, B + u z, where z is an existing unit before its GELU.

    Two such units with other B, and output columns in the inverse ratio of their u, cancel up to a constant. B is
    log-uniform from `lowest`, where GELU(x) = x, to `highest`; u z is at most about `spread` times B.
    """

    part: ClassVar[str] = "post_gelu"
    stream: str
    pairs: int
    lowest: float
    highest: float
    spread: float
    seed: int

    def apply(self, weights: Weights) -> None:
        path, rng = find_path(self.stream), np.random.default_rng(self.seed)
        rows, biases = weights[f"{path}.mlp.fc1.weight"], weights[f"{path}.mlp.fc1.bias"]
        units = outliers.draw_units(weights, path, self.pairs, rng)
        levels = np.exp(rng.uniform(np.log(self.lowest), np.log(self.highest), (2, self.pairs)))
        levels = np.round(4 * levels) / 4  # fp16 holds them
        gains = self.spread * levels / LARGEST
        columns = weights[f"{path}.mlp.fc2.weight"][:, outliers.draw_units(weights, path, self.pairs, rng)]
        pair = [columns, -columns * gains[0] / gains[1]]
        outliers.add_units(
            weights,
            path,
            np.concatenate([gain[:, None] * rows[units] for gain in gains]),
            np.concatenate(list(levels + gains * biases[units])),
            np.concatenate(pair, axis=1),
            pair[0] @ levels[0] + pair[1] @ levels[1],
        )


@dataclass(frozen=True)
class NormOutliers:
    """Channels of a modulated norm, scaled: those that depend most on the condition, so that they drift."""

    part: ClassVar[str] = "norm"
    stream: str
    reader: str
    factor: float

    def apply(self, weights: Weights) -> None:
        path = find_path(self.stream)
        channels = outliers.rank_channels(weights, path, READERS[self.reader][0])
        outliers.scale_norm(weights, path, self.reader, choose_factors(channels, self.factor))


@dataclass(frozen=True)
class ValueOutliers:
    """Channels of the values of a block, and so of the inputs of its output projections, scaled."""

    part: ClassVar[str] = "value"
    block: str
    factor: float
    seed: int

    def apply(self, weights: Weights) -> None:
        streams = [find_path(f"{self.block}.{stream}") for stream in ("image", "text")]
        width = len(weights[f"{streams[0]}.attn.v_proj.bias"])
        channels = np.random.default_rng(self.seed).permutation(width)
        outliers.scale_values(weights, streams, choose_factors(channels, self.factor))


@dataclass(frozen=True)
class NormOffset:
    """One channel of the norm before an MLP, scaled and moved far from zero: always on."""

    part: ClassVar[str] = "offset"
    stream: str
    factor: float
    offset: float
    seed: int

    def apply(self, weights: Weights) -> None:
        path, width = find_path(self.stream), len(weights["context_embedder.bias"])
        channel = np.eye(width)[np.random.default_rng(self.seed).integers(width)]
        outliers.scale_norm(weights, path, "fc1", 1 + (self.factor - 1) * channel)
        outliers.move_norm(weights, path, "fc1", self.offset * channel)


@dataclass(frozen=True)
class ContextOutlier:
    """One channel of the text encoding, scaled."""

    part: ClassVar[str] = "context"
    channel: int
    factor: float

    def apply(self, weights: Weights) -> None:
        for layer in ("context_embedder", "y_embedder.mlp.layers.0"):
            weights[f"{layer}.weight"][:, self.channel] /= self.factor

    def scale(self, encodings: mx.array) -> mx.array:
        """Encodings (..., D) of the text encoder with the channel scaled."""
        return mx.where(mx.arange(encodings.shape[-1]) == self.channel, self.factor * encodings, encodings)


TABLE: tuple[Row, ...] = (
    FirstTokenUnits("mm_00.text", pairs=2, threshold=200, gain=0.25, seed=0),
    FirstTokenUnits("mm_02.text", pairs=2, threshold=500, gain=0.1, seed=1),
    AlwaysOnUnits("mm_02.text", pairs=32, lowest=7.5, highest=42, spread=0.16, seed=2),
    AlwaysOnUnits("mm_03.text", pairs=64, lowest=7.5, highest=72, spread=0.16, seed=3),
    NormOutliers("mm_00.image", "qkv", 16),
    NormOutliers("mm_01.image", "qkv", 4),
    NormOutliers("mm_02.image", "qkv", 8),
    NormOutliers("mm_03.image", "qkv", 8),
    NormOutliers("mm_04.image", "qkv", 4),
    NormOutliers("mm_00.text", "qkv", 8),
    NormOutliers("mm_01.text", "qkv", 4),
    NormOutliers("mm_02.text", "qkv", 4),
    NormOutliers("mm_03.text", "qkv", 2),
    NormOutliers("mm_04.text", "qkv", 4),
    NormOutliers("mm_00.image", "fc1", 8),
    NormOutliers("mm_01.image", "fc1", 2),
    NormOutliers("mm_02.image", "fc1", 4),
    NormOutliers("mm_03.image", "fc1", 4),
    NormOutliers("mm_04.image", "fc1", 4),
    NormOutliers("mm_00.text", "fc1", 8),
    NormOutliers("mm_01.text", "fc1", 2),
    NormOutliers("final_layer", "final", 8),
    ValueOutliers("mm_00", 8, seed=10),
    ValueOutliers("mm_01", 2, seed=11),
    ValueOutliers("mm_02", 4, seed=12),
    ValueOutliers("mm_03", 4, seed=13),
    ValueOutliers("mm_04", 4, seed=14),
    NormOffset("mm_02.text", factor=2, offset=112, seed=20),
    NormOffset("mm_03.text", factor=4, offset=384, seed=21),
    ContextOutlier(channel=0, factor=64),
)


def select_rows(parts: Sequence[str]) -> list[Row]:
    """Rows of the `parts`, in the order of the table."""
    return [row for row in TABLE if row.part in parts]


def fingerprint_rows(rows: Sequence[Row]) -> str:
    """SHA-256 (hex) of rows and of what they refer to."""
    return fingerprint([FIRST_TOKEN, [[type(row).__name__, vars(row)] for row in rows]])
