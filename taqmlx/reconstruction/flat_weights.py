"""Weights of a block's layers as one vector, so that element-wise operations run once for all layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from taqmlx.numerics import rounding
from taqmlx.numerics.weight_grid import Grid, expand_groups

# Keeps the initial h off 0 and 1, where alpha has no gradient.
MARGIN = 1e-6
# Initial soft rounding of a warm-started code: close to it, with a usable gradient.
CONFIDENCE = 0.75


@dataclass(frozen=True)
class FlatWeights:
    """All n weights, float32 (n,): value of the lower code, scale, and initial h, the fraction of a step above it.

    shapes: (out, in) by layer name, in the order of the vector. Values of a layer are stored in the order of (in, out),
    as in the gradient of a product, so that joining them is one copy.
    """

    shapes: dict[str, tuple[int, int]]
    below: mx.array
    scales: mx.array
    fractions: np.ndarray

    def start_alpha(self) -> mx.array:
        """alpha (n,) of the initial `fractions`."""
        return mx.array(rounding.invert_rounding(np.clip(self.fractions, MARGIN, 1 - MARGIN)))

    def soften(self, h: mx.array) -> mx.array:
        """Soft weights (n,) of h (n,)."""
        return self.below + self.scales * h

    def harden(self, alpha: mx.array) -> mx.array:
        """Weights (n,) on the grid, rounded up where alpha is at least 0."""
        return self.soften((alpha >= 0).astype(mx.float32))

    def split(self, vector: mx.array) -> dict[str, mx.array]:
        """Vector (n,) split into the layers' arrays (out, in)."""
        parts, start = {}, 0
        for name, shape in self.shapes.items():
            size = shape[0] * shape[1]
            parts[name] = vector[start : start + size].reshape(shape[::-1]).T  # (in * out,) -> (out, in)
            start += size
        return parts

    def join(self, parts: Mapping[str, mx.array]) -> mx.array:
        """Layers' arrays (out, in) joined into a vector (n,)."""
        return mx.concatenate([parts[name].T.reshape(-1) for name in self.shapes])  # (out, in) -> (in * out,)

    def differentiate(
        self, h: mx.array, gradients: Mapping[str, mx.array], regularizer: tuple[float, float] | None
    ) -> mx.array:
        """Gradient (n,) with respect to alpha, from the gradients with respect to the soft weights.

        regularizer: weight and beta of the rounding regularizer, or None without it.
        """
        by_h = self.join(gradients) * self.scales
        if regularizer is not None:
            by_h = by_h + rounding.differentiate_regularizer(h, *regularizer)
        return by_h * rounding.compute_slope(h)

    def take_codes(self, alpha: mx.array, grids: Mapping[str, Grid]) -> dict[str, np.ndarray]:
        """Codes uint8 (out, in) of `harden(alpha)`."""
        weights = self.split(self.harden(alpha))
        return {name: count_codes(np.array(weights[name]), grids[name]) for name in self.shapes}


def count_codes(weight: np.ndarray, grid: Grid) -> np.ndarray:
    """Codes uint8 of a weight (out, in) that lies on its grid."""
    scales, biases = expand_groups(grid.scales, grid.group_size), expand_groups(grid.biases, grid.group_size)
    positions: np.ndarray = np.rint((weight - biases) / scales)
    return positions.astype(np.uint8)


def start_at_weights(weights: Mapping[str, mx.array], grids: Mapping[str, Grid]) -> FlatWeights:
    """Flat weights of the layers (out, in) with a grid, with soft weights initially at full precision."""
    positions = {name: find_fractional_codes(weights[name], grid) for name, grid in grids.items()}
    below = {name: np.clip(np.floor(place), 0, 2 ** grids[name].bits - 2) for name, place in positions.items()}
    return flatten(grids, below, {name: np.clip(positions[name] - below[name], 0, 1) for name in grids})


def start_at_codes(
    weights: Mapping[str, mx.array], grids: Mapping[str, Grid], codes: Mapping[str, np.ndarray]
) -> FlatWeights:
    """Flat weights of the layers (out, in) with a grid, started near `codes`.

    Each weight is rounded to its code or to the adjacent code on the side of the full-precision weight.
    """
    below, fractions = {}, {}
    for name, grid in grids.items():
        code = codes[name].astype(np.float32)
        upward = (find_fractional_codes(weights[name], grid) >= code) & (code < 2**grid.bits - 1) | (code == 0)
        below[name] = np.where(upward, code, code - 1)
        fractions[name] = np.where(upward, 1 - CONFIDENCE, CONFIDENCE)
    return flatten(grids, below, fractions)


def find_fractional_codes(weight: mx.array, grid: Grid) -> np.ndarray:
    """Weight (out, in) in units of its grid's codes."""
    centred: np.ndarray = np.array(weight) - expand_groups(grid.biases, grid.group_size)
    positions: np.ndarray = centred / expand_groups(grid.scales, grid.group_size)
    return positions


def flatten(
    grids: Mapping[str, Grid], below: Mapping[str, np.ndarray], fractions: Mapping[str, np.ndarray]
) -> FlatWeights:
    """Layers' lower codes and fractions (out, in) on their grids, as vectors."""
    scales = {name: expand_groups(grid.scales, grid.group_size) for name, grid in grids.items()}
    values = [below[name] * scales[name] + expand_groups(grid.biases, grid.group_size) for name, grid in grids.items()]
    shapes = {name: below[name].shape for name in grids}
    return FlatWeights(shapes, mx.array(join(values)), mx.array(join(scales.values())), join(fractions.values()))


def join(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays (out, in) as one float32 vector."""
    return np.concatenate([np.empty(0, np.float32), *(part.T.ravel() for part in parts)]).astype(np.float32)
