"""Rule that stops the learning of a block: the held-out error of the rounded weights no longer falls."""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.reconstruction.block_problem import BlockProblem, measure_errors
from taqmlx.reconstruction.input_quantizers import bind_to_rows

MEASUREMENTS = 20  # of the held-out error, evenly over the configured iterations


def is_measured(iteration: int, iterations: int) -> bool:
    """True if the held-out error is measured after `iteration` of `iterations` iterations."""
    return iteration * MEASUREMENTS // iterations > (iteration - 1) * MEASUREMENTS // iterations


def measure_held_out(
    problem: BlockProblem, weights: Mapping[str, mx.array], quantizers: Mapping[str, InputQuantizer]
) -> float:
    """Error on the held-out rows, over the power, with rounded weights and quantized inputs, summed over streams."""
    errors = measure_errors(problem, problem.weights | dict(weights), bind_to_rows(quantizers), problem.held_out)
    return sum(errors.values())


def has_stopped(errors: Sequence[float], patience: int) -> bool:
    """True if the least of `errors` is `patience` measurements old; never with a patience of 0."""
    return 0 < patience <= len(errors) - 1 - int(np.argmin(errors)) if errors else False
