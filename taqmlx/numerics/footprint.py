"""How much memory the rows of a transformer's forward take, and how many of them go together.

A row is one latent under one prompt: T tokens of image and text, D channels, D / 64 heads. On a CPU a block holds at
its fullest 4 matrices of its attention's scores, which go through the softmax, and 10 tensors (T, D), in single
precision. That is within a percent of what a block as wide as those of Stable Diffusion 3 Medium takes at 410, 845 and
1,613 tokens.
"""

FP32 = 4
HEAD = 64  # channels
SCORES, STREAMS = 4, 10
LEARNING_SCORES, LEARNING_STREAMS = 4, 16  # of a row whose gradients are taken, from 6 and 10 rows of 845 tokens
HELD_WEIGHT, MOVED_WEIGHT = 46, 70  # bytes of a weight while gradients are taken, and while Adam moves it
# Bytes of a weight while the whole model is learned: itself, its code and the quantized weight; and where codes are
# learned, their gradients and Adam's states.
DISTILLED_WEIGHT = {"codes": 48, "scales": 10}
# What the rows of a batch take together, beside the weights. The same on every machine, as captured rows are stored in
# the batches they were captured in; a batch of another size changes nothing else than the order of sums.
BATCH_BYTES = 2_000_000_000
PROCESS_BYTES = 75_000_000  # of a worker that has loaded its packages and nothing else
# What a worker holds over what is in use, as its allocator has gaps and spare blocks: 1.06 to 1.25 times as much,
# measured at the size of Stable Diffusion 3 Medium.
OVERHEAD = 1.2


def count_row_bytes(tokens: int, width: int, kept: int = 0, itemsize: int = FP32) -> int:
    """Bytes that a row of `tokens` tokens takes while it goes through a block; `kept`: tensors (T, D) held besides.

    Half precision is for GPUs, whose attention is fused and holds no scores.
    """
    scores = SCORES * max(1, width // HEAD) * tokens**2 if itemsize == FP32 else 0
    return itemsize * (scores + (STREAMS + kept) * tokens * width)


def count_learning_bytes(tokens: int, width: int) -> int:
    """Bytes that a row of `tokens` tokens takes in an iteration of learning, with what its gradients need."""
    return FP32 * (LEARNING_SCORES * max(1, width // HEAD) * tokens**2 + LEARNING_STREAMS * tokens * width)


def limit_batch(most: int, tokens: int, width: int, rows: int = 1, kept: int = 0) -> int:
    """How many things of `rows` rows each go together in BATCH_BYTES: at least one, at most `most`."""
    return min(most, max(1, BATCH_BYTES // (rows * count_row_bytes(tokens, width, kept))))


def estimate_forward(rows: int, tokens: int, width: int, weights: int, itemsize: int = FP32) -> int:
    """Bytes of a worker that runs `rows` rows at a time through a transformer whose weights have `weights` bytes."""
    return PROCESS_BYTES + round(OVERHEAD * (weights + rows * count_row_bytes(tokens, width, 0, itemsize)))


def estimate_learning(weights: int, rows: int, captured: int, tokens: int, width: int) -> int:
    """Bytes of a worker that learns the rounding of a block of `weights` weights on `rows` rows an iteration.

    captured: the rows it has in memory, what the block reads and gives, in half precision.
    """
    stored = captured * 2 * 2 * tokens * width
    iterating = weights * HELD_WEIGHT + rows * count_learning_bytes(tokens, width)
    return PROCESS_BYTES + stored + round(OVERHEAD * max(iterating, weights * MOVED_WEIGHT))


def estimate_distillation(weights: int, kind: str, rows_bytes: int) -> int:
    """Bytes of a worker that learns a model of `weights` weights, with `rows_bytes` for what its gradients need.

    kind: `codes` or `scales`.
    """
    return PROCESS_BYTES + round(OVERHEAD * (weights * DISTILLED_WEIGHT[kind] + rows_bytes))
