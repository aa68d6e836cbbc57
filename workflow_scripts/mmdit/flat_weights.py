"""The weights of a block's layers on their grids, as one vector: element-wise work once for all layers."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from workflow_scripts.numerics import rounding
from workflow_scripts.numerics.weight_grid import Grid, spread

# Keeps the first h off its ends, where alpha has no gradient.
MARGIN = 1e-6


@dataclass(frozen=True)
class FlatWeights:
    """Of all n weights, float32 (n,): the value of the code below, the scale, and the share of a step above it.

    shapes: (out, in) by layer name, in the order in which the layers follow each other.
    """

    shapes: dict[str, tuple[int, int]]
    below: mx.array
    scales: mx.array
    fractions: np.ndarray

    def start_alpha(self) -> mx.array:
        """The alpha (n,) whose soft weights are the full-precision ones, within the grid."""
        return mx.array(rounding.invert_rounding(np.clip(self.fractions, MARGIN, 1 - MARGIN)))

    def soften(self, h: mx.array) -> mx.array:
        """The soft weights (n,) of h (n,)."""
        return self.below + self.scales * h

    def harden(self, alpha: mx.array) -> mx.array:
        """The weights (n,) on the grid: up where alpha is at least 0."""
        return self.soften((alpha >= 0).astype(mx.float32))

    def split(self, vector: mx.array) -> dict[str, mx.array]:
        """A vector (n,) as the layers' arrays (out, in)."""
        parts, start = {}, 0
        for name, shape in self.shapes.items():
            size = shape[0] * shape[1]
            parts[name] = vector[start : start + size].reshape(shape)  # (out * in,) -> (out, in)
            start += size
        return parts

    def join(self, parts: Mapping[str, mx.array]) -> mx.array:
        """The layers' arrays (out, in) as a vector (n,)."""
        return mx.concatenate([parts[name].reshape(-1) for name in self.shapes])  # (out, in) -> (out * in,)

    def differentiate(
        self, h: mx.array, gradients: Mapping[str, mx.array], pressure: tuple[float, float] | None
    ) -> mx.array:
        """The gradient (n,) with respect to alpha, from those with respect to the soft weights.

        pressure: weight and exponent of the rounding regulariser, or None for none.
        """
        by_h = self.join(gradients) * self.scales
        if pressure is not None:
            weight, beta = pressure
            by_h = by_h + weight * rounding.differentiate_regulariser(h, beta)
        return by_h * rounding.compute_slope(h)

    def take_codes(self, alpha: mx.array, grids: Mapping[str, Grid]) -> dict[str, np.ndarray]:
        """The codes uint8 (out, in) of `harden(alpha)`."""
        weights = self.split(self.harden(alpha))
        return {name: count_codes(np.array(weights[name]), grids[name]) for name in self.shapes}


def count_codes(weight: np.ndarray, grid: Grid) -> np.ndarray:
    """The codes uint8 of a weight (out, in) that lies on its grid."""
    scales, biases = spread(grid.scales, grid.group_size), spread(grid.biases, grid.group_size)
    return np.rint((weight - biases) / scales).astype(np.uint8)


def flatten_weights(weights: Mapping[str, mx.array], grids: Mapping[str, Grid]) -> FlatWeights:
    """The weights (out, in) that have a grid, on it."""
    below, scales, fractions = [], [], []
    for name, grid in grids.items():
        scale, bias = spread(grid.scales, grid.group_size), spread(grid.biases, grid.group_size)
        place = (np.array(weights[name]) - bias) / scale
        floor = np.clip(np.floor(place), 0, 2**grid.bits - 2)
        below.append((floor * scale + bias).ravel())
        scales.append(scale.ravel())
        fractions.append(np.clip(place - floor, 0, 1).ravel())
    shapes = {name: tuple(weights[name].shape) for name in grids}
    joined = [np.concatenate(part).astype(np.float32) for part in (below, scales, fractions)]
    return FlatWeights(shapes, mx.array(joined[0]), mx.array(joined[1]), joined[2])
