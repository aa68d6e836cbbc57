"""Rounding of single layers from their inputs: adaLN layers, embedders and the final layer, outside the block rows."""

import mlx.core as mx
import numpy as np

from taqmlx.numerics.gptq import round_with_gptq
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.planning.layer_rules import WeightRule
from taqmlx.planning.layers import Layer
from taqmlx.store.block_file import LayerWeight

# Share of the mean of the Hessian's diagonal. The inputs of these layers lie in few directions (adaLN: 15 of 128 hold
# 99.9 % of the energy on the embedded model), which more damping would blur.
DAMPING = 0.001


def choose_damping(layer: Layer, of_blocks: float) -> float:
    """GPTQ damping of a layer: `of_blocks` for layers of a block except adaLN, else DAMPING."""
    return of_blocks if layer.block and layer.role != "adaLN" else DAMPING


def round_layer(
    weight: mx.array, rule: WeightRule, hessian: np.ndarray, held_out: np.ndarray, engine: str
) -> LayerWeight:
    """Quantized weight (out, in) on its grid by `rule`: RTN or GPTQ, the one with less error on `held_out` (n, in).

    engine: `rtn` excludes GPTQ. Raises ValueError as `choose_grid` and `round_with_gptq`.
    """
    exact, grid = np.array(weight), choose_grid(weight, rule, np.diag(hessian))
    candidates = [round_to_grid(exact, grid)]
    if engine != "rtn":
        candidates.append(round_with_gptq(exact, grid, hessian, DAMPING))
    errors = [np.square(held_out @ (dequantize(codes, grid) - exact).T).sum() for codes in candidates]
    return LayerWeight(grid, candidates[int(np.argmin(errors))])
