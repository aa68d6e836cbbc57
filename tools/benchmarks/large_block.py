"""Learning of one block of the size of SD3 Medium with random weights: prints seconds per iteration and peak MB."""

import statistics
import time
from dataclasses import replace

import taqmlx  # noqa: F401  before MLX, for its BLAS

import mlx.core as mx  # isort: skip
import numpy as np

from taqmlx.mmdit.blocks import Block
from taqmlx.numerics.weight_grid import choose_grid
from taqmlx.planning.layers import list_block_linears
from taqmlx.planning.stage_groups import AdaRound
from taqmlx.reconstruction.block_assembly import group_readers
from taqmlx.reconstruction.block_problem import BlockProblem, Rows, measure_powers, run_rows, take_rows
from taqmlx.reconstruction.flat_weights import start_at_weights
from taqmlx.reconstruction.input_quantizers import calibrate
from taqmlx.reconstruction.reconstruction import PHASES, bind_iteration
from taqmlx.reconstruction.state import start_state
from tools.benchmarks.gather_memory import read_peak

WIDTH, HEADS, RATIO, IMAGE, TEXT, PAIR = 1536, 24, 4, 256, 154, 2
ITERATIONS = 5
WEIGHT = {"bits": 4, "group_size": 64, "symmetric": False, "range": "absmax"}
ACTIVATION = {"bits": 8, "policy": "lut", "range": "absmax", "shift": True, "migration": False}
SETTINGS = AdaRound(
    seed=0,
    gptq_damping=0.01,
    reconstruction="joint",
    adaround_start="full_precision",
    adaround_iterations=2 * ITERATIONS,
    adaround_batch=PAIR,
    adaround_rate=1e-3,
    adaround_step_rate=4e-5,
    adaround_weight=0.01,
    adaround_warm_up=0.0,
    adaround_beta=(20, 2),
    adaround_drop=0,
    adaround_checkpoint_every=ITERATIONS,
)


def make_weights(
    rng: np.random.Generator, width: int
) -> tuple[dict[str, mx.array], dict[str, mx.array | None], dict[str, str]]:
    """Weights, biases and readers of one block that is not the last."""
    layers = [layer for layer in list_block_linears(2) if layer.block == "mm_00"]
    wide = {"fc1": (RATIO * width, width), "fc2": (width, RATIO * width)}  # the others are square
    shapes = {layer.name: wide.get(layer.role, (width, width)) for layer in layers}
    weights = {name: mx.array(draw(rng, *shape) * shape[1] ** -0.5) for name, shape in shapes.items()}
    biases = {name: mx.array(0.02 * draw(rng, shape[0])) for name, shape in shapes.items()}
    biases |= {name: None for name in biases if name.endswith("k_proj")}
    return weights, biases, group_readers(layers, {name: {"activation": ACTIVATION} for name in shapes})


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers float32."""
    return rng.standard_normal(shape, np.float32)


def make_problem(width: int = WIDTH, heads: int = HEADS, image: int = IMAGE, text: int = TEXT) -> BlockProblem:
    """The problem of such a block on one pair of rows, its targets what it gives in full precision."""
    rng = np.random.default_rng(0)
    weights, biases, readers = make_weights(rng, width)
    streams = [draw(rng, PAIR, length, width).astype(np.float16) for length in (image, text)]
    modulations = {name: 0.3 * draw(rng, PAIR, 1, 6 * width) for name in ("image", "text")}
    rows = Rows(*streams, modulations, *streams, np.zeros(PAIR, np.int64))
    both, block = np.arange(PAIR), Block("mm_00", heads, 1e-6, ("image", "text"), True)
    problem = BlockProblem(block, weights, biases, readers, rows, np.ones(1, np.float32), both, both, {})
    outputs = run_rows(problem, weights, lambda key, x: x, take_rows(rows, both))
    targets = [np.array(outputs[name]).astype(np.float16) for name in ("image", "text")]
    rows = rows._replace(image_target=targets[0], text_target=targets[1])
    return replace(problem, rows=rows, powers=measure_powers(rows, both))


def main() -> None:
    problem = make_problem()
    grids = {name: choose_grid(weight, WEIGHT) for name, weight in problem.weights.items()}
    quantizers, _ = calibrate(problem, dict.fromkeys(problem.weights, ACTIVATION), seed=0)
    flat = start_at_weights(problem.weights, grids)
    iterate = bind_iteration(problem, flat, quantizers, SETTINGS, PHASES["joint"][0], start_state(flat, quantizers))
    seconds = []
    for iteration in range(ITERATIONS):
        start = time.perf_counter()
        iterate(iteration)
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds), read_peak())


if __name__ == "__main__":
    main()
