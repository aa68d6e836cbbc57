"""Merged statistics are those of all rows."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics import statistics


def collect(x, batch):
    """The statistics of x (B, N, D), `batch` rows at a time."""
    parts = []
    for first in range(0, len(x), batch):
        part = mx.array(x[first : first + batch])
        reduced = {key: np.array(value) for key, value in statistics.reduce_tokens(part).items()}
        parts.append(statistics.combine_rows(reduced, x.shape[1]))
    return statistics.merge(parts)


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    spread = np.array([1, 0.01, 100, 1, 3])
    offset = np.array([0, 5, 0, -40, 1])
    return (rng.standard_normal((13, 7, 5)) * spread + offset).astype(np.float32)


@pytest.mark.parametrize("batch", [13, 5, 1])
def test_merged_batches_equal_the_plain_formulas(x, batch):
    found = collect(x, batch)
    rows = x.reshape(-1, 5).astype(np.float64)
    assert found.rows == len(rows)
    assert found.negatives == np.count_nonzero(rows < 0)
    np.testing.assert_array_equal(found.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(found.maximum, rows.max(axis=0))
    deviation = rows.std(axis=0)
    error = np.abs(found.mean - rows.mean(axis=0))
    assert np.all(error < 1e-6 * np.abs(rows).max(axis=0))
    np.testing.assert_allclose(statistics.compute_deviation(found), deviation, rtol=1e-5)


def test_batching_does_not_change_the_statistics(x):
    whole, parts = collect(x, 13), collect(x, 4)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.squares, whole.squares, rtol=1e-12)


def test_empty_statistics_are_neutral(x):
    found, empty = collect(x, 13), statistics.create_empty(5)
    for merged in (statistics.merge([found, empty]), statistics.merge([empty, found])):
        for a, b in zip(merged, found, strict=True):
            np.testing.assert_array_equal(a, b)
    assert statistics.merge([empty, empty]).rows == 0


def test_tensor_scalars_equal_the_plain_formulas(x):
    found, values = statistics.describe_tensor(collect(x, 3)), x.astype(np.float64)
    assert found["min"] == values.min()
    assert found["max"] == values.max()
    assert found["absmax"] == np.abs(values).max()
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert found["std"] == pytest.approx(values.std(), rel=1e-5)
    assert found["negative_share"] == np.mean(values < 0)


def test_the_shift_is_the_mean_middle_over_steps():
    minimum = np.array([[-1, 0], [-3, 2]], np.float32)
    maximum = np.array([[3, 4], [5, 2]], np.float32)
    shift = statistics.compute_shift(minimum, maximum)
    # channel 0: (1 + 1) / 2, channel 1: (2 + 2) / 2
    np.testing.assert_array_equal(shift, [1, 2])
    np.testing.assert_array_equal(statistics.compute_shifted_absmax(minimum, maximum, shift), [2, 4])


def test_the_shifted_range_is_exact():
    """Channel extremes alone give what all shifted values give."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((3, 200, 4)) + np.array([0, 5, -2, 9])).astype(np.float32)
    minimum, maximum = x.min(axis=1), x.max(axis=1)
    shift = statistics.compute_shift(minimum, maximum)
    plain = [max(abs(float(value - z)) for row in step for value, z in zip(row, shift, strict=True)) for step in x]
    np.testing.assert_allclose(statistics.compute_shifted_absmax(minimum, maximum, shift), plain, rtol=1e-6)
