"""One block to be quantized: what it reads, what it should give, and how far a quantized version is from that."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Block, Linear, run_block
from taqmlx.numerics.footprint import limit_batch

Array = TypeVar("Array", np.ndarray, mx.array)
# quantize(key, x (B, T, D)) -> what the product sees of x
Quantize = Callable[[str, mx.array], mx.array]
STREAMS = ("image", "text")  # what a block gives, whatever it does with them inside
BATCH = 64  # rows measured at a time, at most
KEPT = 12  # tensors (T, D) of a row held besides: inputs and targets in single precision, and what the layers read


class Rows(NamedTuple, Generic[Array]):
    """Rows of a block: inputs and targets image (R, N, D) and text (R, T, D), the adaLN outputs (R, 1, n D) by stream.

    The last block has no text target. `knots` (R,) int is the place of each row's noise level among all.
    """

    image: Array
    text: Array
    modulations: Mapping[str, Array]
    image_target: Array
    text_target: Array | None
    knots: Array


@dataclass(frozen=True)
class BlockProblem:
    """A block's layers and rows.

    weights fp32 (out, in) and biases (out,) or None by layer name, in the order of the forward, without the adaLN
    linears; readers: by layer name, the key that layers share which read one input under one rule; rows: NumPy, fp16,
    the modulations fp32; sigmas (K,) the noise levels; training and held_out: indices of rows; powers: the mean square
    of each stream's target over the training rows; clean: where the rows' streams come from quantized blocks, the same
    ones from full-precision blocks.
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
    """The rows at `indices` (B,), fp32, for MLX."""

    def take(part: np.ndarray) -> mx.array:
        return mx.array(part[indices]).astype(mx.float32)

    return Rows(
        take(rows.image),
        take(rows.text),
        {name: take(part) for name, part in rows.modulations.items()},
        take(rows.image_target),
        None if rows.text_target is None else take(rows.text_target),
        mx.array(rows.knots[indices]),
    )


def count_tokens(problem: BlockProblem) -> tuple[int, int]:
    """The tokens of a row, image and text, and the width D."""
    return problem.rows.image.shape[1] + problem.rows.text.shape[1], problem.rows.image.shape[2]


def list_batches(problem: BlockProblem, indices: np.ndarray) -> Iterator[np.ndarray]:
    """`indices` of rows in runs of at most BATCH, as many as memory allows."""
    size = limit_batch(BATCH, *count_tokens(problem), kept=KEPT)
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def pair_targets(rows: Rows[Array]) -> dict[str, Array]:
    """The targets by stream; the last block's text has none."""
    return {
        name: part
        for name, part in zip(STREAMS, (rows.image_target, rows.text_target), strict=True)
        if part is not None
    }


def measure_powers(rows: Rows[np.ndarray], indices: np.ndarray) -> dict[str, float]:
    """The mean square of each stream's target over the rows at `indices`."""
    return {
        name: float(np.mean([np.square(part[i].astype(np.float64)).mean() for i in indices]))
        for name, part in pair_targets(rows).items()
    }


def bind_block(problem: BlockProblem, weights: Mapping[str, mx.array], quantize: Quantize) -> Linear:
    """`linear(name, x)` over `weights` for one forward: an input that layers share is quantized once."""
    quantized: dict[str, mx.array] = {}

    def linear(name: str, x: mx.array) -> mx.array:
        key = problem.readers[name]
        if key not in quantized:
            quantized[key] = quantize(key, x)
        y, bias = quantized[key] @ weights[name].T, problem.biases[name]
        return y if bias is None else y + bias

    return linear


def run_rows(
    problem: BlockProblem, weights: Mapping[str, mx.array], quantize: Quantize, rows: Rows[mx.array]
) -> dict[str, mx.array]:
    """The block's outputs on `rows` by stream, (B, N, D) and (B, T, D); the last block's text has none."""
    outputs = run_block(bind_block(problem, weights, quantize), problem.block, rows.image, rows.text, rows.modulations)
    return {name: part for name, part in zip(STREAMS, outputs, strict=True) if part is not None}


def compute_loss(problem: BlockProblem, outputs: Mapping[str, mx.array], rows: Rows[mx.array]) -> mx.array:
    """The reconstruction loss: per stream the squared error of a row over the mean square of its target, summed.

    Summed over the tokens and channels of a row and averaged over rows, as the constants of the regulariser expect.
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
    """Per stream the squared error over the target's power on the rows at `where`."""
    errors, powers = dict.fromkeys(problem.powers, 0.0), dict.fromkeys(problem.powers, 0.0)
    for batch in list_batches(problem, where):
        rows = take_rows(problem.rows, batch)
        outputs = run_rows(problem, weights, bind_quantize(rows), rows)
        for name, target in pair_targets(rows).items():
            errors[name] += float(mx.square(outputs[name] - target).sum())
            powers[name] += float(mx.square(target).sum())
    return {name: errors[name] / powers[name] for name in errors}


def find_broken_layer(
    problem: BlockProblem, weights: Mapping[str, mx.array], quantize: Quantize, rows: Rows[mx.array]
) -> str | None:
    """The first layer, in the order of the forward, whose output on `rows` is not finite; None if all are."""
    outputs: dict[str, mx.array] = {}
    inner = bind_block(problem, weights, quantize)

    def linear(name: str, x: mx.array) -> mx.array:
        outputs[name] = inner(name, x)
        return outputs[name]

    run_block(linear, problem.block, rows.image, rows.text, rows.modulations)
    return next((name for name, output in outputs.items() if not mx.isfinite(output).all().item()), None)
