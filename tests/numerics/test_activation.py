"""Simulated activation quantization: every scale is a step size."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.activation import (
    compute_step,
    look_up_step,
    quantize_dequantize,
)
from taqmlx.numerics.sigma_lookup import LOOKUPS, find_nearest_knot


def quantize_slowly(x, step, bits, shift=0.0):
    """Value by value, in float64."""
    largest = 2 ** (bits - 1) - 1
    out = np.empty(x.shape)
    for place in np.ndindex(x.shape):
        z = shift if np.isscalar(shift) else shift[place[-1]]
        code = round((float(x[place]) - z) / step)  # Python rounds half to even
        out[place] = max(-largest, min(largest, code)) * step + z
    return out


def compute_sqnr(x, y):
    """Signal to quantization noise in dB."""
    return 10 * np.log10(np.sum(np.square(x)) / np.sum(np.square(x - y)))


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((4, 6, 1, 8)).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_equals_the_slow_version(x, bits):
    step = float(compute_step(2.0, bits))  # some values lie outside and are clipped
    found = np.array(quantize_dequantize(mx.array(x), step, bits))
    np.testing.assert_allclose(found, quantize_slowly(x, step, bits), atol=1e-6)


def test_the_shift_moves_the_grid(x):
    shift = np.linspace(-1, 1, 8).astype(np.float32)
    found = np.array(quantize_dequantize(mx.array(x), 0.05, 8, mx.array(shift)))
    np.testing.assert_allclose(found, quantize_slowly(x, 0.05, 8, shift), atol=1e-6)


def test_halves_round_to_even():
    found = quantize_dequantize(mx.array([0.5, 1.5, 2.5, -0.5, -1.5]), 1.0, 8)
    assert found.tolist() == [0, 2, 2, 0, -2]


def test_zero_is_kept():
    assert quantize_dequantize(mx.zeros((2, 3)), compute_step(0.0, 8), 8).tolist() == [[0] * 3] * 2


def test_fp16_is_kept():
    assert quantize_dequantize(mx.ones((2,), mx.float16), 0.1, 8).dtype == mx.float16


def test_a_gaussian_at_8_bits_keeps_35_db():
    x = np.random.default_rng(1).standard_normal(20_000).astype(np.float32)
    step = compute_step(np.abs(x).max(), 8)
    assert compute_sqnr(x, np.array(quantize_dequantize(mx.array(x), step, 8))) > 35


def test_a_range_used_as_a_step_size_loses_everything():
    """Dividing by the absmax itself leaves the codes -1, 0 and 1: less than 1 dB."""
    x = np.random.default_rng(1).standard_normal(20_000).astype(np.float32)
    absmax = float(np.abs(x).max())
    assert compute_sqnr(x, np.array(quantize_dequantize(mx.array(x), absmax, 8))) < 1


def schedule(steps):
    """Sigmas of a flow-matching schedule with shift 3, largest first."""
    t = np.linspace(1, 0.003, steps)
    return 3 * t / (1 + 2 * t)


def test_each_of_28_timesteps_finds_the_nearest_of_50():
    knots = schedule(50)
    for sigma in schedule(28):
        distances = [abs(knot - sigma) for knot in knots]
        assert distances[find_nearest_knot(sigma, knots)] == min(distances)


def test_beyond_the_table_the_ends_apply():
    knots = np.array([0.9, 0.5, 0.1])
    assert [find_nearest_knot(sigma, knots) for sigma in (5.0, 0.71, -1.0)] == [0, 0, 2]


class TestTables:
    KNOTS, STEPS = np.array([1.0, 0.7, 0.2]), np.array([0.3, 0.1, 0.2], np.float32)
    BITS = (4, 8, 6)

    @pytest.mark.parametrize("lookup", LOOKUPS)
    def test_one_number_of_bits_keeps_the_step_sizes_exactly(self, lookup):
        for sigma in np.linspace(0, 1.2, 50):
            weights = LOOKUPS[lookup](sigma, self.KNOTS)
            for bits in (6, [6] * 3):
                assert look_up_step(weights, self.STEPS, bits) == (float(weights @ self.STEPS), 6)

    @pytest.mark.parametrize("lookup", LOOKUPS)
    def test_the_bits_are_those_of_the_nearest_knot(self, lookup):
        for sigma in (*np.linspace(0, 1.2, 50), 0.85, 0.45):
            used = look_up_step(LOOKUPS[lookup](sigma, self.KNOTS), self.STEPS, self.BITS)[1]
            assert used == self.BITS[find_nearest_knot(sigma, self.KNOTS)]

    def test_at_a_knot_the_step_size_is_that_of_the_table(self):
        for place, knot in enumerate(self.KNOTS):
            found = look_up_step(LOOKUPS["interpolated"](knot, self.KNOTS), self.STEPS, self.BITS)
            assert found == (float(self.STEPS[place]), self.BITS[place])

    def test_between_knots_the_range_is_interpolated(self):
        ranges = self.STEPS * np.array([7, 127, 31])
        for sigma in (0.9, 0.8, 0.6, 0.3):
            step, bits = look_up_step(LOOKUPS["interpolated"](sigma, self.KNOTS), self.STEPS, self.BITS)
            expected = np.interp(sigma, self.KNOTS[::-1], ranges[::-1])
            assert step * (2 ** (bits - 1) - 1) == pytest.approx(expected, rel=1e-6)
