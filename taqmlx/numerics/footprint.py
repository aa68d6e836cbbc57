"""Memory estimates of a transformer's forward and of learning, and the batch size that fits.

A row is one latent under one prompt: T tokens of image and text, D channels, D / 64 heads. On a CPU, a block
holds at its peak 4 matrices of attention scores, for the softmax, and 10 tensors (T, D), in fp32. This is
within one percent of the measured memory of a block as wide as those of Stable Diffusion 3 Medium at 410, 845 and 1,613
tokens.
"""

from typing import NamedTuple

from taqmlx.planning.bit_choices import CHANGE_BYTES, CHOICES, limit_group

FP32 = 4
HEAD = 64  # channels
SCORES, STREAMS = 4, 10
LEARNING_SCORES, LEARNING_STREAMS = 4, 16  # per row with gradients, from 6 and 10 rows of 845 tokens
HELD_WEIGHT, MOVED_WEIGHT = 46, 70  # bytes per weight during the gradients, and during Adam's update
# Bytes per weight while a small model is learned: the weight, its code and the quantized weight; for learned codes
# also their gradients and Adam's states.
DISTILLED_WEIGHT = {"codes": 48, "scales": 10}
# The same of a large model, learned block by block, without the teacher: while the teacher computes (codes, Adam's
# states), and while the student learns (also the gradients of both parts of a batch). In groups of 64.
TAUGHT_WEIGHT, LEARNED_WEIGHT = {"codes": 12, "scales": 1.4}, {"codes": 28, "scales": 1.9}
BLOCK_WEIGHT = 12  # bytes per weight of one block: the quantized weight, its gradient, and those of adaLN
PROBED_WEIGHT = 12  # bytes per weight of a group of the search for bits: the weight, its gradient and their sum
PARTS = 2  # of a batch of distillation; the same on every machine, for identical bytes
# Memory of all rows of a batch, beside the weights. It is the same on every machine, because captured rows are stored
# in the batches they were captured in; another batch size changes only the order of sums.
BATCH_BYTES = 2_000_000_000
PROCESS_BYTES = 75_000_000  # of a worker that has only loaded its packages
# Ratio of a worker's memory to the memory in use, for gaps and spare blocks of the allocator: 1.06 to 1.25, measured at
# the size of Stable Diffusion 3 Medium.
OVERHEAD = 1.2


def count_row_bytes(tokens: int, width: int, kept: int = 0, itemsize: int = FP32) -> int:
    """Bytes of a row of `tokens` tokens in the forward of a block; `kept`: further tensors (T, D) held.

    16 bits are for GPUs, whose fused attention holds no scores.
    """
    scores = SCORES * max(1, width // HEAD) * tokens**2 if itemsize == FP32 else 0
    return itemsize * (scores + (STREAMS + kept) * tokens * width)


def count_learning_bytes(tokens: int, width: int) -> int:
    """Bytes of a row of `tokens` tokens in one learning iteration, gradients included."""
    return FP32 * (LEARNING_SCORES * max(1, width // HEAD) * tokens**2 + LEARNING_STREAMS * tokens * width)


def limit_batch(most: int, tokens: int, width: int, rows: int = 1, kept: int = 0) -> int:
    """Number of items of `rows` rows each that fit in BATCH_BYTES: at least one, at most `most`."""
    return min(most, max(1, BATCH_BYTES // (rows * count_row_bytes(tokens, width, kept))))


def estimate_forward(rows: int, tokens: int, width: int, weights: int, itemsize: int = FP32) -> int:
    """Bytes of a worker that runs `rows` rows at a time through a transformer with `weights` bytes of weights."""
    return PROCESS_BYTES + round(OVERHEAD * (weights + rows * count_row_bytes(tokens, width, 0, itemsize)))


def estimate_learning(weights: int, rows: int, captured: int, tokens: int, width: int) -> int:
    """Bytes of a worker that learns the rounding of a block of `weights` weights on `rows` rows per iteration.

    captured: number of rows held in memory, inputs and outputs of the block in fp16.
    """
    stored = captured * 2 * 2 * tokens * width
    iterating = weights * HELD_WEIGHT + rows * count_learning_bytes(tokens, width)
    return PROCESS_BYTES + stored + round(OVERHEAD * max(iterating, weights * MOVED_WEIGHT))


def estimate_distillation(weights: int, kind: str, rows_bytes: int) -> int:
    """Bytes of a worker that learns a model of `weights` weights as one graph, with `rows_bytes` for the gradients.

    kind: `codes` or `scales`.
    """
    return PROCESS_BYTES + round(OVERHEAD * (weights * DISTILLED_WEIGHT[kind] + rows_bytes))


class Learning(NamedTuple):
    """Sizes that determine the memory of gradients computed block by block.

    weights: number of weights of the model; block: of its largest block, without adaLN; itemsize: bytes of a weight in
    full precision; blocks: their number; tokens and width: of a row; forward and gradient: rows together in each.
    """

    weights: int
    block: int
    itemsize: int
    blocks: int
    tokens: int
    width: int
    forward: int
    gradient: int

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients of one block, and of the inputs of all blocks."""
        inputs = FP32 * self.blocks * self.tokens * self.width
        return self.block * BLOCK_WEIGHT + self.gradient * (inputs + count_learning_bytes(self.tokens, self.width))


def estimate_distillation_by_block(sizes: Learning, kind: str) -> int:
    """Bytes of a worker that learns a model block by block: of the teacher's phase or the student's, the larger."""
    forward = sizes.forward * count_row_bytes(sizes.tokens, sizes.width)
    teaching = sizes.weights * (sizes.itemsize + TAUGHT_WEIGHT[kind]) + forward
    learning = sizes.weights * LEARNED_WEIGHT[kind] + sizes.gradient_bytes
    return PROCESS_BYTES + round(OVERHEAD * max(teaching, learning))


def estimate_search(sizes: Learning) -> int:
    """Bytes of a worker that searches bits: the model, and the changes and gradients of a group of layers."""
    group = limit_group(sizes.weights) * (1 + PROBED_WEIGHT / (CHOICES * CHANGE_BYTES))
    return PROCESS_BYTES + round(OVERHEAD * (sizes.weights * sizes.itemsize + sizes.gradient_bytes + group))
