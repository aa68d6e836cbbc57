"""Learned rounding of one block with random weights: seconds per iteration, with products in fp32 and in bf16.

`python -m tools.benchmarks.gpu.learning DEVICE SIZE` prints one JSON object. The iteration is that of
`tools.benchmarks.large_block` without rounded inputs, with the products of `learning_dtype` and compiled as in a job.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import taqmlx  # noqa: F401  before MLX, for its BLAS

import mlx.core as mx  # isort: skip

from taqmlx.numerics import rounding
from taqmlx.numerics.low_precision import MULTIPLY
from taqmlx.numerics.weight_grid import choose_grid
from taqmlx.reconstruction.block_problem import BlockProblem, Rows, compute_loss, run_rows, take_rows
from taqmlx.reconstruction.flat_weights import FlatWeights, start_at_weights
from taqmlx.reconstruction.reconstruction import compile_on_gpu
from taqmlx.reconstruction.state import restore_adams, start_state, update_alpha
from tools.benchmarks import large_block
from tools.benchmarks.gpu.device import choose_device, evaluate, read_memory, reset_memory

ITERATIONS = 6  # the first compiles the kernels and is not counted
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
# Width, heads, image and text tokens of a block.
SIZES = {"sd3-medium": (1536, 24, 256, 154), "small": (128, 2, 16, 5)}


def bind_learning(problem: BlockProblem, flat: FlatWeights, learning_dtype: str) -> Callable[[], float]:
    """`iterate()`: one iteration of the codes, with products in `learning_dtype`; returns the loss."""
    state, rows = start_state(flat, {}), take_rows(problem.rows, problem.training)
    adam, multiply = restore_adams(state)["rounding"], MULTIPLY[learning_dtype]

    def measure(weights: dict[str, mx.array], rows: Rows[mx.array]) -> mx.array:
        return compute_loss(problem, run_rows(problem, weights, lambda key, x: x, rows, multiply), rows)

    differentiate = compile_on_gpu(mx.value_and_grad(measure))

    def iterate() -> float:
        h = rounding.compute_rounding(state.alpha)
        loss, gradients = differentiate(flat.split(flat.soften(h)), rows)
        update_alpha(state, adam, flat.differentiate(h, gradients, None), large_block.SETTINGS.adaround_rate)
        evaluate(loss, state.alpha)
        return float(loss)

    return iterate


def measure(size: str) -> dict[str, float]:
    """Median seconds per iteration of two rows, and peak MB, by precision."""
    problem = large_block.make_problem(*SIZES[size])
    grids = {name: choose_grid(weight, large_block.WEIGHT) for name, weight in problem.weights.items()}
    flat = start_at_weights(problem.weights, grids)
    found = {}
    for name, learning_dtype in PRECISIONS.items():
        reset_memory()
        iterate, seconds, losses = bind_learning(problem, flat, learning_dtype), [], []
        for _ in range(ITERATIONS):
            start = time.perf_counter()
            losses.append(iterate())
            seconds.append(time.perf_counter() - start)
        found |= {f"{name}_s": statistics.median(seconds[1:]), f"{name}_mb": read_memory()}
        found |= {f"{name}_first_loss": losses[0], f"{name}_last_loss": losses[-1]}
    return found | {"tokens": sum(SIZES[size][2:])}


if __name__ == "__main__":
    choose_device(sys.argv[1])
    print(json.dumps(measure(sys.argv[2])))
