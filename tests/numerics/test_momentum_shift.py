"""The momentum shift: a moving average over batches of rows that starts at the middle of the range."""

import numpy as np
import pytest

from taqmlx.numerics.momentum_shift import BATCH, MOMENTUM, compute_momentum_shift


def draw(rows, channels=4):
    rng = np.random.default_rng(rows)
    low = rng.standard_normal((rows, channels)).astype(np.float32)
    return low, low + rng.uniform(0, 9, low.shape).astype(np.float32)


def average_slowly(minimum, maximum, rng):
    """Channel by channel and row by row."""
    rows, channels = minimum.shape
    order, shift = rng.permutation(rows), []
    for c in range(channels):
        z = (min(float(v) for v in minimum[:, c]) + max(float(v) for v in maximum[:, c])) / 2
        for start in range(0, rows, BATCH):
            batch = order[start : start + BATCH]
            low, high = min(float(minimum[r, c]) for r in batch), max(float(maximum[r, c]) for r in batch)
            z = MOMENTUM * z + (1 - MOMENTUM) * (low + high) / 2
        shift.append(z)
    return shift


@pytest.mark.parametrize("rows", [1, BATCH, BATCH + 1, 3 * BATCH + 7])
def test_the_shift_equals_the_slow_version(rows):
    minimum, maximum = draw(rows)
    found = compute_momentum_shift(minimum, maximum, np.random.default_rng(5))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, average_slowly(minimum, maximum, np.random.default_rng(5)), rtol=1e-6)


def test_constant_extremes_give_their_middle():
    low, high = np.array([-0.17, 0.0, 2.0], np.float32), np.array([5.0, 0.0, 2.5], np.float32)
    found = compute_momentum_shift(np.tile(low, (200, 1)), np.tile(high, (200, 1)), np.random.default_rng(0))
    np.testing.assert_allclose(found, (low + high) / 2, rtol=1e-6)


def test_the_shift_is_repeatable_and_depends_on_the_order_of_rows():
    extremes = draw(5 * BATCH)
    first, second, other = (compute_momentum_shift(*extremes, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_a_single_row_hardly_moves_the_shift():
    """What a single outlier adds to the range, the average forgets a part of with each batch."""
    minimum, maximum = np.zeros((1000, 1), np.float32), np.ones((1000, 1), np.float32)
    maximum[0] = 101
    z = compute_momentum_shift(minimum, maximum, np.random.default_rng(0)).item()
    assert 0.5 < z < 0.5 * (0 + 101)
