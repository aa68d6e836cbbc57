"""Calibration points as transformer batches, and their guided velocity."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Linear
from taqmlx.mmdit.capture import assemble_rows
from taqmlx.mmdit.forward import predict_velocity
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.schedule import guide
from taqmlx.store.calibration import Calibration
from taqmlx.store.errors import UserError


class CalibrationPoints(NamedTuple):
    """All points of a calibration set: xs float16 (n, h, w, c), timesteps and sigmas float32 (n,), prompts int64 (n,).

    read_conditions: function from prompts (b,) to their cs (b, C, T, D) and cs_pooled (b, C, W).
    """

    xs: np.ndarray
    timesteps: np.ndarray
    sigmas: np.ndarray
    prompts: np.ndarray
    read_conditions: Callable[[np.ndarray], list[np.ndarray]]

    def take(self, indices: np.ndarray) -> Batch:
        """Batch of the points at `indices` (b,), each under its C conditions: C b rows, all positives first."""
        return assemble_rows(self.xs[indices], self.timesteps[indices], *self.read_conditions(self.prompts[indices]))


def read_points(calibration: Calibration) -> CalibrationPoints:
    """Points of a calibration set. Raises UserError naming a damaged file, or a point that is not finite."""
    xs, ts, sigmas, prompts = (calibration.read(name) for name in ("xs", "ts", "sigmas", "prompt_indices"))
    broken = np.flatnonzero(~np.isfinite(xs).all(axis=(1, 2, 3)))
    if len(broken):
        raise UserError(
            f"{calibration.path}: calibration point {broken[0]} is not finite; check the model's weights, delete it and"
            " the trajectories, and run again"
        )
    return CalibrationPoints(xs, ts, sigmas, prompts, calibration.bind_conditions())


def split_runs(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`indices` in chunks of at most `size`."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def predict_conditions(model: Transformer, linear: Linear, batch: Batch, conditions: int) -> mx.array:
    """Velocities (C, b, h, w, c) of a batch of b points under their C `conditions`."""
    velocity = predict_velocity(model, linear, *batch)
    return velocity.reshape(conditions, -1, *velocity.shape[1:])


def guide_conditions(velocities: mx.array, cfg_scale: float) -> mx.array:
    """Guided velocity (b, h, w, c), as used by the sampler, from the velocities of the conditions (C, b, h, w, c)."""
    return guide([velocities[place] for place in range(len(velocities))], cfg_scale)
