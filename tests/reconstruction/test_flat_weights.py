"""The weights of all layers in one vector: lossless, with exact starting points."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics import rounding
from taqmlx.numerics.weight_grid import choose_grid, dequantize, expand_groups, round_to_grid
from taqmlx.reconstruction.flat_weights import FlatWeights, count_codes, start_at_codes, start_at_weights

# Bits, groups and ranges all differ; a row of 192 is stored in groups of 64.
RULES = {
    "a": {"bits": 4, "group_size": 32, "symmetric": False, "range": "absmax"},
    "b": {"bits": 2, "group_size": "row", "symmetric": True, "range": "absmax"},
    "c": {"bits": 8, "group_size": 128, "symmetric": False, "range": "absmax"},
    "d": {"bits": 7, "group_size": 64, "symmetric": True, "range": "absmax"},
    "e": {"bits": 3, "group_size": 64, "symmetric": False, "range": "search"},
}
SHAPES = {"a": (8, 64), "b": (5, 192), "c": (4, 256), "d": (3, 64), "e": (16, 128)}


@pytest.fixture
def weights():
    """Weights with heavy tails, so that a searched range cuts some off."""
    rng = np.random.default_rng(0)
    return {name: mx.array(rng.standard_t(4, shape).astype(np.float32)) for name, shape in SHAPES.items()}


@pytest.fixture
def grids(weights):
    return {name: choose_grid(weights[name], rule) for name, rule in RULES.items()}


@pytest.fixture
def flat(weights, grids):
    return start_at_weights(weights, grids)


def to_steps(weight, grid):
    """A weight (out, in) in units of its grid's codes, float64."""
    scales, biases = (expand_groups(part, grid.group_size).astype(np.float64) for part in (grid.scales, grid.biases))
    return (np.array(weight).astype(np.float64) - biases) / scales


def soften_by_layer(flat, alpha):
    return flat.split(flat.soften(rounding.compute_rounding(alpha)))


def test_joining_inverts_splitting(flat, weights):
    parts = flat.split(flat.join(weights))
    assert list(parts) == list(weights)
    assert all(mx.array_equal(parts[name], weights[name]) for name in weights)
    vector = mx.arange(sum(w.size for w in weights.values()))
    assert mx.array_equal(flat.join(flat.split(vector)), vector)


def test_learning_starts_at_the_weights(flat, weights, grids):
    """Within a millionth of the grid, the precision of fp32; what a searched range cuts off starts at its end."""
    soft = soften_by_layer(flat, flat.start_alpha())
    for name, grid in grids.items():
        codes = 2**grid.bits - 1
        exact = np.clip(to_steps(weights[name], grid), 0, codes)
        assert np.abs(to_steps(soft[name], grid) - exact).max() <= 1e-6 * max(codes, 2), name


def test_the_searched_range_of_the_test_clips_weights(weights, grids):
    places = to_steps(weights["e"], grids["e"])
    assert (places < -0.5).any() or (places > 2 ** grids["e"].bits - 0.5).any()


def test_everything_is_fp32(flat):
    alpha = flat.start_alpha()
    arrays = [flat.below, flat.scales, alpha, flat.soften(alpha), flat.harden(alpha)]
    assert {array.dtype for array in arrays} == {mx.float32}
    assert flat.fractions.dtype == np.float32


def test_hardened_before_learning_every_weight_is_rounded_to_nearest(flat, weights, grids):
    codes = flat.take_codes(flat.start_alpha(), grids)
    for name, grid in grids.items():
        ties = np.abs(to_steps(weights[name], grid) % 1 - 0.5) < 1e-4
        assert ((codes[name] == round_to_grid(np.array(weights[name]), grid)) | ties).all()


@pytest.mark.parametrize("seed", range(3))
def test_codes_are_on_the_grid_and_give_the_hard_weights(flat, grids, seed):
    alpha = 50 * mx.random.normal(flat.below.shape, key=mx.random.key(seed))
    hard = flat.split(flat.harden(alpha))
    for name, codes in flat.take_codes(alpha, grids).items():
        assert codes.dtype == np.uint8
        assert codes.max() <= 2 ** grids[name].bits - 1
        np.testing.assert_allclose(np.array(hard[name]), dequantize(codes, grids[name]), rtol=1e-6, atol=1e-6)


def test_the_choice_is_between_the_two_codes_around_the_weight(flat, weights, grids):
    size = flat.below.shape
    low, high = (flat.take_codes(mx.full(size, alpha), grids) for alpha in (-1.0, 1.0))
    for name, grid in grids.items():
        place = np.clip(to_steps(weights[name], grid), 0, 2**grid.bits - 1)
        np.testing.assert_array_equal(high[name] - low[name], 1)
        assert ((low[name] <= place + 1e-4) & (place <= high[name] + 1e-4)).all()


@pytest.mark.parametrize("spoil", ["nearest", "random"])
def test_learning_can_start_at_given_codes(weights, grids, spoil):
    rng = np.random.default_rng(1)
    codes = {
        "nearest": {name: round_to_grid(np.array(weights[name]), grid) for name, grid in grids.items()},
        "random": {name: rng.integers(0, 2**grid.bits, SHAPES[name]).astype(np.uint8) for name, grid in grids.items()},
    }[spoil]
    flat = start_at_codes(weights, grids, codes)
    found = flat.take_codes(flat.start_alpha(), grids)
    low, high = (flat.take_codes(mx.full(flat.below.shape, alpha), grids) for alpha in (-1.0, 1.0))
    for name, grid in grids.items():
        np.testing.assert_array_equal(found[name], codes[name])
        assert max(low[name].max(), high[name].max()) <= 2**grid.bits - 1
        np.testing.assert_array_equal(high[name].astype(int) - low[name], 1)
        other = low[name].astype(int) + high[name] - codes[name]  # the code to change to
        place, code = to_steps(weights[name], grid), codes[name].astype(int)
        inner = (code > 0) & (code < 2**grid.bits - 1) & (np.abs(place - code) > 1e-4)
        np.testing.assert_array_equal(other[inner] > code[inner], place[inner] > code[inner])


def test_moved_codes_are_counted(grids):
    rng = np.random.default_rng(2)
    for name, grid in grids.items():
        codes = rng.integers(0, 2**grid.bits, SHAPES[name]).astype(np.uint8)
        np.testing.assert_array_equal(count_codes(dequantize(codes, grid), grid), codes)


@pytest.mark.parametrize("regularizer", [None, (0.01, 20.0), (0.3, 2.0)])
def test_the_gradient_equals_that_of_a_plain_version(flat, weights, regularizer):
    """By automatic differentiation through a sigmoid, of a loss that is quadratic in the soft weights."""
    rng = np.random.default_rng(3)
    targets = {name: w + mx.array(rng.standard_normal(w.shape).astype(np.float32)) for name, w in weights.items()}
    alpha = mx.array(rng.normal(0, 2, flat.below.shape).astype(np.float32))  # a part of it saturated

    def measure(parts):
        return sum(mx.square(parts[name] - targets[name]).sum() for name in parts)

    def measure_plainly(alpha):
        h = mx.clip(mx.sigmoid(alpha) * 1.2 - 0.1, 0.0, 1.0)
        loss = measure(flat.split(flat.below + flat.scales * h))
        if regularizer is None:
            return loss
        return loss + regularizer[0] * (1 - mx.power(mx.abs(2 * h - 1), regularizer[1])).sum()

    h = rounding.compute_rounding(alpha)
    found = np.array(flat.differentiate(h, mx.grad(measure)(flat.split(flat.soften(h))), regularizer))
    expected = np.array(mx.grad(measure_plainly)(alpha))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert (found[np.abs(np.array(alpha)) > rounding.SATURATION + 1e-5] == 0).all()


def test_without_a_weight_nothing_is_rounded():
    flat = start_at_weights({}, {})
    assert isinstance(flat, FlatWeights)
    assert flat.start_alpha().size == 0
    assert flat.split(flat.start_alpha()) == flat.take_codes(flat.start_alpha(), {}) == {}
