"""Propagation of block inputs through quantized blocks."""

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Block
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.weight_grid import dequantize
from taqmlx.reconstruction.block_assembly import assemble_problem, list_own_linears, read_weights
from taqmlx.reconstruction.block_problem import BlockProblem, list_batches, run_rows, take_rows
from taqmlx.reconstruction.input_quantizers import bind_to_rows
from taqmlx.store.block_file import BlockFile
from taqmlx.store.errors import UserError

Streams = tuple[np.ndarray, np.ndarray]


def dequantize_block(model: Transformer, file: BlockFile) -> dict[str, mx.array]:
    """All weights (out, in) of a quantized block by layer name, fp32; unquantized ones unchanged."""
    weights, _ = read_weights(model, list_own_linears(model, file.seal["parameters"]["block"]))
    return weights | {name: mx.array(dequantize(layer.codes, layer.grid)) for name, layer in file.weights.items()}


def restore_biases(file: BlockFile) -> dict[str, mx.array]:
    """Biases (out,) fp32 that the file has instead of the model's, by layer name."""
    return {name: mx.array(bias.astype(np.float32)) for name, bias in file.biases.items()}


def propagate(
    model: Transformer, block: Block, file: BlockFile, streams: Streams, modulation: np.ndarray, sigmas: np.ndarray
) -> Streams:
    """Outputs fp16 of `block`, quantized as in `file`, for image (R, N, D) and text (R, T, D).

    modulation (R, D): inputs of the adaLN linears; sigmas (R,): noise levels of the rows. Raises UserError if the file
    has a table of step sizes for other noise levels.
    """
    rules = file.seal["parameters"]["layers"]
    weights, everything = dequantize_block(model, file), np.arange(len(sigmas))
    problem = assemble_problem(
        model, block, rules, weights, streams, streams, modulation, sigmas, (everything, everything)
    )
    problem = replace(
        problem,
        weights={name: weights[name] for name in problem.weights},
        biases={**problem.biases, **restore_biases(file)},
    )
    quantizers = {key: file.find_input(key) for key in dict.fromkeys(problem.readers.values())}
    by_level = any(quantizer.policy == "lut" for quantizer in quantizers.values())
    if by_level and not np.array_equal(problem.sigmas, file.sigmas):
        raise UserError(
            f"{block.name} was quantized at other noise levels than those of the rows; run optimise_block again"
        )
    return run_all(problem, quantizers)


def run_all(problem: BlockProblem, quantizers: Mapping[str, InputQuantizer]) -> Streams:
    """Outputs of the block on all rows, fp16."""
    image, text = [], []
    bind = bind_to_rows(quantizers)
    for batch in list_batches(problem, problem.training):
        rows = take_rows(problem.rows, batch)
        outputs = run_rows(problem, problem.weights, bind(rows), rows)
        image.append(np.array(outputs["image"]).astype(np.float16))
        text.append(np.array(outputs["text"]).astype(np.float16))
    return np.concatenate(image), np.concatenate(text)
