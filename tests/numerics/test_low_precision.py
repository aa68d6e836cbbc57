"""Products in 16 bits round operands and results, forward and backward, at any magnitude of the gradient."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.low_precision import MULTIPLY, PRODUCTS, find_magnitude, multiply_half, simulate_half
from taqmlx.numerics.stored_types import round_values
from taqmlx.planning.configuration import load_schema

DTYPES = ("bfloat16", "float16")
ULP = {"bfloat16": 2.0**-7, "float16": 2.0**-10}  # of a number at a power of two, relative
BATCH, TOKENS, IN, OUT = 3, 7, 48, 40


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def operands(rng):
    """x, weight, and the gradient of x @ weight.T, of the magnitude of a loss."""
    shapes, sizes = ((BATCH, TOKENS, IN), (OUT, IN), (BATCH, TOKENS, OUT)), (1.0, 0.05, 1e-4)
    return [(size * rng.standard_normal(shape)).astype(np.float32) for shape, size in zip(shapes, sizes, strict=True)]


def multiply_slowly(left, right, dtype):
    """left @ right with operands and result rounded to `dtype`, summed in float64."""
    exact = round_values(left, dtype).astype(np.float64) @ round_values(right, dtype).astype(np.float64)
    return round_values(exact.astype(np.float32), dtype)


def differentiate_slowly(x, weight, cotangent, dtype):
    """Gradients of x and weight; the cotangent is scaled into [1, 2) before it is rounded."""
    magnitude = 2.0 ** np.floor(np.log2(np.abs(cotangent).max()))
    scaled = (cotangent / magnitude).astype(np.float32)
    by_x = np.stack([multiply_slowly(row, weight, dtype) for row in scaled])
    by_weight = multiply_slowly(scaled.reshape(-1, OUT).T, x.reshape(-1, IN), dtype)
    return by_x * magnitude, by_weight * magnitude


def pull_back(dtype, x, weight, cotangent):
    """Gradients of x and weight by MLX."""
    _, gradients = mx.vjp(MULTIPLY[dtype], [mx.array(x), mx.array(weight)], [mx.array(cotangent)])
    return [np.array(gradient) for gradient in gradients]


def assert_rounded_alike(found, expected, dtype):
    """Equal, except for sums that another order takes to the other side of a tie."""
    assert (found == expected).mean() > 0.98
    np.testing.assert_allclose(found, expected, rtol=ULP[dtype], atol=2.0**-20 * np.abs(expected).max())


def test_there_is_a_product_for_every_value_of_the_key():
    assert list(MULTIPLY) == load_schema()["properties"]["learning_dtype"]["enum"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_is_the_slow_one(operands, dtype):
    x, weight, _ = operands
    found = MULTIPLY[dtype](mx.array(x), mx.array(weight))
    assert found.dtype == mx.float32
    assert_rounded_alike(np.array(found), multiply_slowly(x, weight.T, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradients_are_the_slow_ones(operands, dtype):
    found, expected = pull_back(dtype, *operands), differentiate_slowly(*operands, dtype)
    for own, slow in zip(found, expected, strict=True):
        assert own.dtype == np.float32
        assert_rounded_alike(own, slow, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_differs_from_that_in_fp32_by_the_rounding_alone(operands, dtype):
    """Relative to the root mean square: three roundings, each of at most half an ulp."""
    x, weight, _ = operands
    exact = x @ weight.T
    error = np.array(MULTIPLY[dtype](mx.array(x), mx.array(weight))) - exact
    share = np.sqrt(np.square(error).mean() / np.square(exact).mean())
    assert ULP[dtype] / 10 < share < ULP[dtype]


def test_fp32_is_the_plain_product_to_the_bit(operands):
    x, weight, cotangent = map(mx.array, operands)
    found, gradients = mx.vjp(MULTIPLY["float32"], [x, weight], [cotangent])
    expected, plain = mx.vjp(lambda x, weight: x @ weight.T, [x, weight], [cotangent])
    assert mx.array_equal(found[0], expected[0])
    assert all(mx.array_equal(own, other) for own, other in zip(gradients, plain, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [-60, -24, 20, 60])
def test_a_gradient_scaled_by_a_power_of_two_gives_gradients_scaled_alike_to_the_bit(operands, dtype, exponent):
    """fp16 ends at 65504, and half of 2^-24 is 0."""
    x, weight, cotangent = operands
    plain, scaled = (pull_back(dtype, x, weight, cotangent * np.float32(power)) for power in (1, 2.0**exponent))
    for own, other in zip(plain, scaled, strict=True):
        np.testing.assert_array_equal(own * np.float32(2.0**exponent), other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_gradient_stays_none(operands, dtype):
    x, weight, cotangent = operands
    assert not any(gradient.any() for gradient in pull_back(dtype, x, weight, 0 * cotangent))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_that_is_not_finite_stays_so(operands, dtype):
    x, weight, cotangent = operands
    for value in (np.nan, np.inf):
        cotangent[0, 1, 2] = value
        assert not any(np.isfinite(gradient).all() for gradient in pull_back(dtype, x, weight, cotangent))


@pytest.mark.parametrize(
    ("values", "magnitude"),
    [([1.0, -2.5], 2.0), ([0.24, 0.0], 0.125), ([4.0], 4.0), ([0.0], 2.0**-126), ([-3e38], 2.0**127)],
)
def test_the_magnitude_is_the_power_of_two_below_the_absmax(values, magnitude):
    assert find_magnitude(mx.array(values)).item() == magnitude


def test_only_fp16_overflows():
    x, weight = mx.full((1, 4), 300.0), mx.full((2, 4), 300.0)
    largest = {dtype: MULTIPLY[dtype](x, weight).max().item() for dtype in DTYPES}
    assert largest == {"bfloat16": pytest.approx(360_000, rel=0.01), "float16": np.inf}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_simulated_product_is_that_in_16_bits(operands, dtype):
    x, weight, _ = map(mx.array, operands)
    assert set(PRODUCTS) == {mx.cpu, mx.gpu}
    half, simulated = (np.array(f(x, weight.T, getattr(mx, dtype))) for f in (multiply_half, simulate_half))
    assert_rounded_alike(half, simulated, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_on_a_gpu_are_those_of_the_simulation(operands, dtype, monkeypatch):
    simulated = pull_back(dtype, *operands)
    monkeypatch.setitem(PRODUCTS, mx.cpu, multiply_half)
    for own, other in zip(pull_back(dtype, *operands), simulated, strict=True):
        assert_rounded_alike(own, other, dtype)
