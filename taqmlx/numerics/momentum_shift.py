"""Static shift of post-GELU activations, as a moving average over shuffled batches.

Source: TaQ-DiT, Liu et al. 2024, arXiv:2411.14172, section on momentum-based shifting.
"""

import numpy as np

MOMENTUM = 0.95
BATCH = 32


def compute_momentum_shift(minimum: np.ndarray, maximum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift z of each channel, float32 (D,), from the extremes (R, D) of each row.

    z starts at the midpoint of the range of all rows and moves by 1 - MOMENTUM towards that of each batch in turn;
    batches mix noise levels.
    """
    shift: np.ndarray = (minimum.min(axis=0).astype(np.float64) + maximum.max(axis=0)) / 2
    order = rng.permutation(len(minimum))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        middle = (minimum[batch].min(axis=0).astype(np.float64) + maximum[batch].max(axis=0)) / 2
        shift = MOMENTUM * shift + (1 - MOMENTUM) * middle
    return shift.astype(np.float32)
