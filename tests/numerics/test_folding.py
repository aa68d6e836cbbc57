"""Vectors of folds: what they are computed from, and their limits."""

import numpy as np
import pytest

from taqmlx.numerics.folding import LARGEST_EXPONENT, build_hadamard, choose_scales, sort_channels


def test_scales_are_powers_of_two_around_one():
    random = np.random.default_rng(0)
    absmax, weight = np.exp2(random.normal(0, 3, 64)), np.exp2(random.normal(0, 1, 64))
    scales = choose_scales(absmax, weight, 0.5, 0.5)
    np.testing.assert_array_equal(np.exp2(np.rint(np.log2(scales))), scales)
    assert abs(np.log2(scales).mean()) < 0.5


def test_the_exponents_weigh_inputs_against_weights():
    """alpha 1 levels the inputs, beta 1 the weights (SmoothQuant, eq. 4)."""
    absmax, weight = np.array([1, 4, 16.0]), np.array([8, 2, 1.0])
    np.testing.assert_array_equal(choose_scales(absmax, weight, 1, 0), [0.25, 1, 4])
    assert np.ptp(np.log2(choose_scales(absmax, weight, 0, 1) * weight)) <= 1


def test_a_channel_that_is_never_used_keeps_the_mean_scale():
    scales = choose_scales(np.array([0, 4, 1.0, 1]), np.array([1, 1, 1, 0.0]), 1, 0)
    np.testing.assert_array_equal(scales, [1, 2, 0.5, 1])


def test_scales_stay_in_the_range_that_fp16_can_take():
    scales = choose_scales(np.exp2([-60.0, 0, 60]), np.ones(3), 1, 0)
    assert np.abs(np.log2(scales)).max() == LARGEST_EXPONENT


def test_channels_are_sorted_within_their_spans():
    order = sort_channels(np.array([3, 1, 2, 9, 7, 8.0]), 3)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(order, [1, 2, 0, 4, 5, 3])


@pytest.mark.parametrize("size", [1, 2, 64])
def test_the_hadamard_matrix_is_its_own_inverse(size):
    matrix = build_hadamard(size)
    np.testing.assert_allclose(matrix @ matrix, np.eye(size), atol=1e-6)
    np.testing.assert_allclose(np.abs(matrix), size**-0.5, rtol=1e-6)


def test_other_sizes_are_rejected():
    with pytest.raises(ValueError, match="a power of two channels, not of 24"):
        build_hadamard(24)
