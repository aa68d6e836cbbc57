"""Soft codes, scales and zero points: the forward uses stored weights, and gradients are straight-through."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.learned_codes import dequantize_soft, round_codes, round_stored
from taqmlx.numerics.stored_types import STORED_TYPES, round_values
from taqmlx.numerics.weight_grid import Grid, dequantize

OUT, GROUPS, SIZE = 6, 3, 32
BITS = (2, 3, 4, 5, 6, 7, 8)


def draw(bits, seed=0):
    """Soft codes (out, in), some beyond the ends; scales and zero points (out, G) of fp16; a gradient (out, in)."""
    rng = np.random.default_rng(seed)
    codes = rng.uniform(-1, 2**bits, (OUT, GROUPS * SIZE)).astype(np.float32)
    scales = rng.uniform(0.01, 0.1, (OUT, GROUPS)).astype(np.float16).astype(np.float32)
    zeros = rng.standard_normal((OUT, GROUPS)).astype(np.float16).astype(np.float32)
    return codes, scales, zeros, rng.standard_normal(codes.shape).astype(np.float32)


def round_slowly(codes, bits):
    """Python rounds half to even."""
    return np.array([[min(max(round(float(code)), 0), 2**bits - 1) for code in row] for row in codes])


def differentiate(codes, scales, zeros, cotangent, bits):
    """The weight, and the gradients of codes, scales and zero points."""
    (weight,), gradients = mx.vjp(
        lambda *parts: [dequantize_soft(*parts, bits)],
        [mx.array(part) for part in (codes, scales, zeros)],
        [mx.array(cotangent)],
    )
    return np.array(weight), *map(np.array, gradients)


class TestStoredValues:
    VALUES = (0.1, -1 / 3, 2049.0, 6e-8, 1e-9, 65504.0)

    def test_the_forward_is_the_nearest_half(self):
        found = np.array(round_stored(mx.array(self.VALUES), "float16"))
        np.testing.assert_array_equal(found, np.array(self.VALUES, np.float32).astype(np.float16).astype(np.float32))

    def test_the_forward_is_the_nearest_bf16_if_that_is_stored(self):
        found = np.array(round_stored(mx.array(self.VALUES), "bfloat16"))
        np.testing.assert_array_equal(found, round_values(np.array(self.VALUES, np.float32), "bfloat16"))
        assert (found != np.array(round_stored(mx.array(self.VALUES), "float16"))).any()

    def test_beyond_the_largest_half_it_is_infinite(self):
        assert np.array(round_stored(mx.array([7e4, -7e4]), "float16")).tolist() == [np.inf, -np.inf]

    @pytest.mark.parametrize("scale_dtype", STORED_TYPES)
    def test_the_gradient_passes_through_the_rounding(self, scale_dtype):
        gradient = mx.grad(lambda x: (mx.arange(6) * round_stored(x, scale_dtype)).sum())(mx.array(self.VALUES))
        assert gradient.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_rounded_to_nearest_and_clipped(bits):
    codes, *_ = draw(bits)
    np.testing.assert_array_equal(np.array(round_codes(mx.array(codes), bits)), round_slowly(codes, bits))


def test_half_codes_are_rounded_to_even():
    assert round_codes(mx.array([[0.5, 1.5, 2.5, 254.5]]), 8).tolist() == [[0, 2, 2, 254]]


@pytest.mark.parametrize("bits", BITS)
def test_the_weight_equals_the_stored_codes_dequantized_bit_for_bit(bits):
    codes, scales, zeros, cotangent = draw(bits)
    grid = Grid(scales.astype(np.float16), zeros.astype(np.float16), bits, SIZE)
    expected = dequantize(round_slowly(codes, bits).astype(np.uint8), grid)
    np.testing.assert_array_equal(differentiate(codes, scales, zeros, cotangent, bits)[0], expected)
    np.testing.assert_array_equal(np.array(dequantize_soft(*map(mx.array, (codes, scales, zeros)), bits)), expected)


@pytest.mark.parametrize("bits", BITS)
def test_the_gradients_are_the_straight_through_formulas(bits):
    """dw/dcode = scale, also beyond the ends, so that a code can come back; dw/dscale = code; dw/dzero = 1."""
    codes, scales, zeros, cotangent = draw(bits)
    _, by_code, by_scale, by_zero = differentiate(codes, scales, zeros, cotangent, bits)
    whole, wide = round_slowly(codes, bits), cotangent.astype(np.float64)
    assert ((codes < -0.5) | (codes > 2**bits - 0.5)).any()
    for i, j in np.ndindex(codes.shape):
        assert by_code[i, j] == pytest.approx(cotangent[i, j] * scales[i, j // SIZE], rel=1e-6)
    for i, group in np.ndindex(scales.shape):
        own = slice(group * SIZE, (group + 1) * SIZE)
        assert by_scale[i, group] == pytest.approx((wide[i, own] * whole[i, own]).sum(), rel=1e-4, abs=1e-3)
        assert by_zero[i, group] == pytest.approx(wide[i, own].sum(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("place", ["scales", "zeros"])
def test_the_gradients_of_scales_and_zero_points_agree_with_finite_differences(place):
    """The weight is linear in both, as the codes stay."""
    codes, scales, zeros, cotangent = (part.astype(np.float64) for part in draw(4))
    parts, change = {"scales": scales, "zeros": zeros}, np.random.default_rng(1).standard_normal(scales.shape)

    def evaluate(moved):
        own = parts | {place: parts[place] + moved * change}
        scale, zero = (np.repeat(own[name], SIZE, axis=1) for name in ("scales", "zeros"))
        return (cotangent * (round_slowly(codes, 4) * scale + zero)).sum()

    inputs = (part.astype(np.float32) for part in (codes, scales, zeros, cotangent))
    gradient = dict(zip(parts, differentiate(*inputs, 4)[2:], strict=True))[place]
    assert (gradient * change).sum() == pytest.approx((evaluate(1) - evaluate(-1)) / 2, rel=1e-4)
