"""AdaRound loops to compare, each in its own process: an input line runs some iterations.

`python -m tools.benchmarks.learners NAME PARAMS ROWS...` answers a line with the seconds of a chunk, and the end of its
input with the held-out errors.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import taqmlx  # noqa: F401  before MLX, for its BLAS

CHUNK = 20  # iterations
START = {"adaround_start": "full_precision"}
PHASE = 0

Iterate = Callable[[int], float]
Measure = Callable[[], dict[str, float]]


def build_task(params: Path, rows: list[Path]) -> tuple[Any, Any]:
    """The block's task, and its settings."""
    from taqmlx.models.catalogue import find_model
    from taqmlx.planning.stages import AdaRoundBlockParameters
    from taqmlx.reconstruction.block_task import prepare
    from taqmlx.store.block_inputs import open_block_inputs
    from taqmlx.store.files import read_json

    job = replace(AdaRoundBlockParameters.decode(read_json(params)), **START)
    model, inputs = find_model(job.model), open_block_inputs(rows)
    task = prepare(job, job.layers, inputs, [], model.load_transformer(), model.LATENT_SHAPE)
    return task, job


def bind_measure(task: Any, flat: Any, read: Callable[[], Any]) -> Measure:
    """The held-out error of each stream, with the codes and step sizes of the state that `read` gives."""
    from taqmlx.reconstruction.candidates import Candidate, measure_candidate
    from taqmlx.reconstruction.state import read_quantizers

    def measure() -> dict[str, float]:
        state = read()
        quantizers = read_quantizers(task.quantizers, state)
        candidate = Candidate("adaround", flat.take_codes(state.alpha, task.grids), quantizers)
        return measure_candidate(task.problem, task.grids, candidate)["quantized_inputs"]

    return measure


def build_ours(task: Any, settings: Any) -> tuple[Iterate, Measure]:
    """The project's loop."""
    from taqmlx.reconstruction.flat_weights import start_at_weights
    from taqmlx.reconstruction.reconstruction import PHASES, bind_iteration
    from taqmlx.reconstruction.state import start_state

    flat = start_at_weights(task.problem.weights, task.grids)
    state = start_state(flat, task.quantizers)
    phase = PHASES["joint"][PHASE]
    iterate = bind_iteration(task.problem, flat, task.quantizers, settings, phase, state)
    return iterate, bind_measure(task, flat, lambda: state)


def build_torch(task: Any, settings: Any, threads: int = 1) -> tuple[Iterate, Measure]:
    """The loop in plain torch, on the same batches."""
    import mlx.core as mx
    import numpy as np
    import torch

    from taqmlx.numerics.rounding import compute_rate
    from taqmlx.reconstruction.flat_weights import start_at_weights
    from taqmlx.reconstruction.reconstruction import schedule_regularizer
    from taqmlx.reconstruction.state import start_state
    from tools.benchmarks.torch_rounding import TorchBlock, bind_torch_iteration

    torch.set_num_threads(threads)
    flat = start_at_weights(task.problem.weights, task.grids)
    block = TorchBlock(task.problem, flat, task.quantizers)
    learn = bind_torch_iteration(task.problem, block, settings)
    training, size = task.problem.training, settings.adaround_batch

    def iterate(iteration: int) -> float:
        rng = np.random.default_rng((settings.seed, PHASE, iteration))
        indices = rng.choice(training, min(size, len(training)), replace=False)
        rate = compute_rate(iteration, settings.adaround_iterations, settings.adaround_step_rate)
        return learn(indices, schedule_regularizer(settings, iteration), rate)

    def read() -> Any:
        state = start_state(flat, task.quantizers)
        alphas = [mx.array(layer.alpha.detach().numpy()) for layer in block.linears]
        state.alpha = flat.join(dict(zip(block.names, alphas, strict=True)))
        state.log_steps = {
            key: mx.array(quantizer.log_steps.detach().numpy())
            for key, quantizer in zip(block.keys, block.quantizers, strict=True)
        }
        return state

    return iterate, bind_measure(task, flat, read)


BUILDERS = {
    "ours": build_ours,
    "torch": build_torch,
    "torch_two_threads": lambda task, settings: build_torch(task, settings, threads=2),
}


def main(name: str, params: Path, rows: list[Path]) -> None:
    task, settings = build_task(params, rows)
    iterate, measure = BUILDERS[name](task, settings)
    print("ready", flush=True)
    done = 0
    for _ in sys.stdin:
        start = time.perf_counter()
        for iteration in range(done, done + CHUNK):
            iterate(iteration)
        done += CHUNK
        print(time.perf_counter() - start, flush=True)
    print(json.dumps(measure()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(path) for path in sys.argv[3:]])
