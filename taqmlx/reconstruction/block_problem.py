"""Reconstruction problem of one block: inputs, targets, and the error of a quantized version."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Block, Linear, run_block
from taqmlx.numerics.footprint import limit_batch
from taqmlx.numerics.low_precision import Multiply, multiply_single

Array = TypeVar("Array", np.ndarray, mx.array)
# quantize(key, x (B, T, D)) -> quantized layer input
Quantize = Callable[[str, mx.array], mx.array]
STREAMS = ("image", "text")  # outputs of a block, even if it joins the streams internally
BATCH = 64  # rows measured at a time, at most
KEPT = 12  # further tensors (T, D) per row: inputs and targets in fp32, and layer inputs


class Rows(NamedTuple, Generic[Array]):
    """Rows of a block: inputs and targets image (R, N, D) and text (R, T, D), and adaLN outputs (R, 1, n D) by stream.

    The last block has no text target. `sigma_index` (R,) int: index of each row's noise level.
    """

    image: Array
    text: Array
    modulations: Mapping[str, Array]
    image_target: Array
    text_target: Array | None
    sigma_index: Array


@dataclass(frozen=True)
class BlockProblem:
    """Layers and rows of a block.

    weights fp32 (out, in) and biases (out,) or None by layer name, in forward order, without adaLN linears; readers: by
    layer name, the key of its input quantizer, shared by layers with the same input and rule; rows: NumPy, fp16, the
    modulations fp32; sigmas (K,): noise levels; training and held_out: row indices; powers: mean square of each
    stream's target over the training rows; clean: streams from full-precision blocks, where those of the rows come from
    quantized blocks.
    """

    block: Block
    weights: dict[str, mx.array]
    biases: dict[str, mx.array | None]
    readers: dict[str, str]
    rows: Rows[np.ndarray]
    sigmas: np.ndarray
    training: np.ndarray
    held_out: np.ndarray
    powers: dict[str, float]
    clean: tuple[np.ndarray, np.ndarray] | None = None


def take_rows(rows: Rows[np.ndarray], indices: np.ndarray) -> Rows[mx.array]:
    """Rows at `indices` (B,), as fp32 MLX arrays."""

    def take(part: np.ndarray) -> mx.array:
        return mx.array(part[indices]).astype(mx.float32)

    return Rows(
        take(rows.image),
        take(rows.text),
        {name: take(part) for name, part in rows.modulations.items()},
        take(rows.image_target),
        None if rows.text_target is None else take(rows.text_target),
        mx.array(rows.sigma_index[indices]),
    )


def count_tokens(problem: BlockProblem) -> tuple[int, int]:
    """Tokens per row, image and text together, and width D."""
    return problem.rows.image.shape[1] + problem.rows.text.shape[1], problem.rows.image.shape[2]


def list_batches(problem: BlockProblem, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Row `indices` in batches of at most BATCH, as large as memory allows."""
    size = limit_batch(BATCH, *count_tokens(problem), kept=KEPT)
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def pair_targets(rows: Rows[Array]) -> dict[str, Array]:
    """Targets by stream; the text of the last block has none."""
    return {
        name: part
        for name, part in zip(STREAMS, (rows.image_target, rows.text_target), strict=True)
        if part is not None
    }


def measure_powers(rows: Rows[np.ndarray], indices: np.ndarray) -> dict[str, float]:
    """Mean square of each stream's target over the rows at `indices`."""
    return {
        name: float(np.mean([np.square(part[i].astype(np.float64)).mean() for i in indices]))
        for name, part in pair_targets(rows).items()
    }


def bind_block(
    problem: BlockProblem, weights: Mapping[str, mx.array], quantize: Quantize, multiply: Multiply = multiply_single
) -> Linear:
    """`linear(name, x)` with `weights` for one forward; a shared layer input is quantized once."""
    quantized: dict[str, mx.array] = {}

    def linear(name: str, x: mx.array) -> mx.array:
        key = problem.readers[name]
        if key not in quantized:
            quantized[key] = quantize(key, x)
        y, bias = multiply(quantized[key], weights[name]), problem.biases[name]
        return y if bias is None else y + bias

    return linear


def keep_inputs(quantize: Quantize, read: dict[str, mx.array]) -> Quantize:
    """`quantize`, with every result also stored in `read`."""

    def keep(key: str, x: mx.array) -> mx.array:
        read[key] = quantize(key, x)
        return read[key]

    return keep


def run_rows(
    problem: BlockProblem,
    weights: Mapping[str, mx.array],
    quantize: Quantize,
    rows: Rows[mx.array],
    multiply: Multiply = multiply_single,
) -> dict[str, mx.array]:
    """Outputs of the block on `rows` by stream, (B, N, D) and (B, T, D); the last block has no text output."""
    linear = bind_block(problem, weights, quantize, multiply)
    outputs = run_block(linear, problem.block, rows.image, rows.text, rows.modulations)
    return {name: part for name, part in zip(STREAMS, outputs, strict=True) if part is not None}


def compute_loss(problem: BlockProblem, outputs: Mapping[str, mx.array], rows: Rows[mx.array]) -> mx.array:
    """Reconstruction loss: squared error of a row over the mean square of its target, summed over streams.

    The error is summed over the tokens and channels of a row and averaged over rows, to match the constants of the
    regularizer.
    """
    parts = [
        mx.square(outputs[name] - target).sum() * (1.0 / (len(target) * problem.powers[name]))
        for name, target in pair_targets(rows).items()
    ]
    return sum(parts[1:], parts[0])


def measure_errors(
    problem: BlockProblem,
    weights: Mapping[str, mx.array],
    bind_quantize: Callable[[Rows[mx.array]], Quantize],
    where: np.ndarray,
) -> dict[str, float]:
    """Squared error of each stream over the power of its target, on the rows at `where`."""
    errors, powers = dict.fromkeys(problem.powers, 0.0), dict.fromkeys(problem.powers, 0.0)
    for batch in list_batches(problem, where):
        rows = take_rows(problem.rows, batch)
        outputs = run_rows(problem, weights, bind_quantize(rows), rows)
        for name, target in pair_targets(rows).items():
            errors[name] += float(mx.square(outputs[name] - target).sum())
            powers[name] += float(mx.square(target).sum())
    return {name: errors[name] / powers[name] for name in errors}


def find_nonfinite_layer(
    problem: BlockProblem,
    weights: Mapping[str, mx.array],
    quantize: Quantize,
    rows: Rows[mx.array],
    multiply: Multiply = multiply_single,
) -> str | None:
    """First layer in forward order with an output on `rows` that is not finite; None if all outputs are finite."""
    outputs: dict[str, mx.array] = {}
    inner = bind_block(problem, weights, quantize, multiply)

    def linear(name: str, x: mx.array) -> mx.array:
        outputs[name] = inner(name, x)
        return outputs[name]

    run_block(linear, problem.block, rows.image, rows.text, rows.modulations)
    return next((name for name, output in outputs.items() if not mx.isfinite(output).all().item()), None)
