"""The weight grid is MLX's, and what is stored is what was rounded to."""

import mlx.core as mx
import numpy as np
import pytest

from workflow_scripts.numerics import weight_grid

ALL_BITS = [2, 3, 4, 5, 6, 8]


@pytest.fixture
def weight():
    return np.random.default_rng(0).standard_t(5, (16, 256)).astype(np.float32) * 0.05


def round_slowly(weight, grid):
    """The nearest level of each weight, by trying all."""
    best = np.empty(weight.shape, np.uint8)
    for i, j in np.ndindex(weight.shape):
        scale, bias = (float(part[i, j // grid.group_size]) for part in (grid.scales, grid.biases))
        best[i, j] = min(range(2**grid.bits), key=lambda code: abs(code * scale + bias - float(weight[i, j])))
    return best


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_packed_codes_dequantize_in_mlx_to_the_same_weight(weight, bits, group_size):
    grid = weight_grid.choose_grid(mx.array(weight), bits, group_size)
    codes = weight_grid.round_to_grid(weight, grid)
    packed = weight_grid.pack_codes(codes, bits)
    scales, biases = (mx.array(part).astype(mx.float32) for part in (grid.scales, grid.biases))
    by_mlx = mx.dequantize(mx.array(packed), scales, biases, group_size=group_size, bits=bits)
    np.testing.assert_allclose(np.array(by_mlx), weight_grid.dequantize(codes, grid), atol=1e-6)
    np.testing.assert_array_equal(weight_grid.unpack_codes(packed, bits), codes)


def test_codes_are_the_nearest_levels(weight):
    grid = weight_grid.choose_grid(mx.array(weight[:4]), 4, 64)
    found = weight_grid.dequantize(weight_grid.round_to_grid(weight[:4], grid), grid)
    plain = weight_grid.dequantize(round_slowly(weight[:4], grid), grid)
    np.testing.assert_allclose(np.abs(found - weight[:4]), np.abs(plain - weight[:4]), atol=1e-7)


def test_the_error_is_not_above_that_of_mlx(weight):
    """MLX takes the codes for unrounded scales; stored as fp16 they are no longer the nearest."""
    grid = weight_grid.choose_grid(mx.array(weight), 4, 64)
    ours = weight_grid.dequantize(weight_grid.round_to_grid(weight, grid), grid)
    codes, scales, biases = mx.quantize(mx.array(weight), group_size=64, bits=4)
    rounded = (part.astype(mx.float16).astype(mx.float32) for part in (scales, biases))
    theirs = np.array(mx.dequantize(codes, *rounded, group_size=64, bits=4))
    assert np.square(ours - weight).sum() <= np.square(theirs - weight).sum()


def test_constant_and_empty_groups_survive():
    weight = np.concatenate([np.zeros((1, 64)), np.full((1, 64), 0.25), np.full((1, 64), 1e-9)]).astype(np.float32)
    grid = weight_grid.choose_grid(mx.array(weight), 4, 64)
    found = weight_grid.dequantize(weight_grid.round_to_grid(weight, grid), grid)
    np.testing.assert_allclose(found, weight, atol=1e-6)


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="96 inputs are no multiple of the group size 64"):
        weight_grid.choose_grid(mx.zeros((2, 96)), 4, 64)
