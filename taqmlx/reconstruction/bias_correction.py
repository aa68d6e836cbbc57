"""Bias correction: the mean output error of a quantized layer over the calibration rows, folded into its bias.

Nagel et al. 2019, arXiv 1906.04721, section 4.2, with measured means. The inputs are those of the full-precision block,
so that all layers are corrected in one pass.
"""

from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np

from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.reconstruction.block_problem import (
    BlockProblem,
    Quantize,
    Rows,
    keep_inputs,
    list_batches,
    run_rows,
    take_rows,
)
from taqmlx.reconstruction.input_quantizers import bind_to_rows, leave_unrounded


def correct_biases(
    problem: BlockProblem, weights: Mapping[str, mx.array], quantizers: Mapping[str, InputQuantizer]
) -> dict[str, mx.array]:
    """Biases fp32 (out,) of the layers with quantized `weights` (out, in), corrected on the training rows.

    quantizers: by reader. A layer without a bias is left out.
    """
    exact = measure_means(problem, lambda rows: leave_unrounded(quantizers))
    rounded = measure_means(problem, bind_to_rows(quantizers))
    corrected = {}
    for name, weight in weights.items():
        bias, key = problem.biases[name], problem.readers[name]
        if bias is not None:
            corrected[name] = bias + problem.weights[name] @ exact[key] - weight @ rounded[key]
    mx.eval(corrected)
    return corrected


def measure_means(problem: BlockProblem, bind_quantize: Callable[[Rows[mx.array]], Quantize]) -> dict[str, mx.array]:
    """Mean fp32 (in,) of each reader's input over the tokens of the training rows, with full-precision weights."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for batch in list_batches(problem, problem.training):
        rows = take_rows(problem.rows, batch)
        read: dict[str, mx.array] = {}
        mx.eval(run_rows(problem, problem.weights, keep_inputs(bind_quantize(rows), read), rows))
        for key, x in read.items():
            sums[key] = sums.get(key, 0.0) + np.array(x.sum(axis=(0, 1)), np.float64)
            counts[key] = counts.get(key, 0) + x.shape[0] * x.shape[1]
    return {key: mx.array((total / counts[key]).astype(np.float32)) for key, total in sums.items()}
