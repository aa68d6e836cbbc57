"""The sketch samples evenly, has a small error in the tails, and is deterministic."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics import sketch

SHARES = [0.001, 0.01, 0.99, 0.999]


def sketch_parts(values, parts):
    sketches = []
    for part in np.array_split(values, parts):
        sketches.append(sketch.create_sketch())
        sketch.add_values(sketches[-1], part)
    return sketch.merge_sketches(sketches)


@pytest.fixture(scope="module")
def values():
    """Heavy-tailed, as activations are."""
    return np.random.default_rng(0).standard_t(4, 200_000).astype(np.float32)


@pytest.mark.parametrize("parts", [1, 4])
def test_quantiles_are_near_the_exact_ones(values, parts):
    exact = np.quantile(values.astype(np.float64), SHARES)
    found = sketch.read_quantiles(sketch_parts(values, parts), SHARES)
    np.testing.assert_allclose(found, exact, rtol=0.02)


def test_equal_values_give_equal_bytes(values):
    first, again = (sketch.encode_sketch(sketch_parts(values, 4)) for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_the_bytes_hold_the_whole_sketch(values):
    found = sketch_parts(values, 2)
    read = sketch.decode_sketch(sketch.encode_sketch(found))
    assert sketch.read_quantiles(read, SHARES) == sketch.read_quantiles(found, SHARES)


def test_an_empty_sketch_merges_and_reads_as_zero(values):
    empty = sketch.decode_sketch(sketch.encode_sketch(sketch.create_sketch()))
    assert sketch.read_quantiles(empty, SHARES) == [0.0] * len(SHARES)
    full = sketch_parts(values, 1)
    merged = sketch.merge_sketches([empty, full])
    np.testing.assert_allclose(sketch.read_quantiles(merged, SHARES), sketch.read_quantiles(full, SHARES), rtol=0.01)


@pytest.mark.parametrize(("tokens", "channels"), [(16, 128), (20, 512), (1, 128), (5, 6)])
def test_a_sample_is_evenly_strided_and_takes_every_channel(tokens, channels):
    x = mx.arange(2 * tokens * channels).reshape(2, tokens, channels)
    sample = np.array(sketch.sample_rows(x, 64))
    assert sample.shape[1] <= 64
    assert set(np.diff(sample, axis=1).ravel()) == {sample[0, 1] - sample[0, 0]}
    if tokens * channels > 64 * channels / 8:
        assert len(set((sample % channels).ravel())) >= min(channels, sample.shape[1])


def test_a_sample_of_a_row_does_not_depend_on_the_others():
    x = mx.random.normal((3, 16, 128), key=mx.random.key(0))
    np.testing.assert_array_equal(np.array(sketch.sample_rows(x)[1:2]), np.array(sketch.sample_rows(x[1:2])))
