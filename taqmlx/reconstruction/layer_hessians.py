"""Hessians for GPTQ: second moments of full-precision layer inputs."""

from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.gptq import accumulate_hessian
from taqmlx.planning.layers import Layer

ENERGY = 0.999  # share of an input's energy within its effective rank


def observe_layers(model: Transformer, layers: Sequence[Layer], batch: Batch) -> dict[str, mx.array]:
    """Full-precision inputs of `layers` on `batch` by input name, (..., in), not evaluated.

    MLX is lazy: evaluating these computes nothing after the last of the layers.
    """
    exact, inputs = bind_linears(model), {layer.name: layer.input for layer in layers}
    read: dict[str, mx.array] = {}

    def observe(name: str, x: mx.array) -> mx.array:
        if name in inputs:
            read.setdefault(inputs[name], x)
        return exact(name, x)

    predict_velocity(model, observe, *batch)
    return read


def accumulate_hessians(model: Transformer, layers: Sequence[Layer], batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Hessian float64 (in, in) of the inputs of `layers` on `batches`, by input name."""
    hessians: dict[str, np.ndarray] = {}
    for batch in batches:
        for key, x in observe_layers(model, layers, batch).items():
            tokens = np.array(x).reshape(-1, x.shape[-1])  # (..., in) -> (tokens, in)
            hessians[key] = accumulate_hessian(hessians.get(key), tokens)
    return hessians


def measure_rank(hessian: np.ndarray) -> int:
    """Effective rank of an input: number of directions that hold ENERGY. Raises ValueError unless it is finite."""
    if not np.isfinite(hessian).all():
        raise ValueError("the layer input has values that are not finite or too large to square")
    values = np.linalg.eigvalsh(hessian)[::-1]
    return int(np.searchsorted(np.cumsum(values), ENERGY * values.sum()) + 1)
