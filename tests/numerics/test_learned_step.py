"""Learned step sizes: the value is plain rounding, and the gradients are those of the LSQ paper."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.learned_step import quantize_learned

SHAPE = (3, 5, 8)
STEP_SHAPES = {"one": (1, 1, 1), "by row": (3, 1, 1), "by channel": (1, 1, 8), "by row and channel": (3, 1, 8)}
CASES = [(kind, bits) for kind in STEP_SHAPES for bits in (3, 8)]


def draw(kind, bits, seed=0):
    """Values of which some are clipped, step sizes, and the gradient that comes in."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(SHAPE).astype(np.float32)
    step = (rng.uniform(0.8, 1.3, STEP_SHAPES[kind]) * 1.5 / (2 ** (bits - 1) - 1)).astype(np.float32)
    return x, step, rng.standard_normal(SHAPE).astype(np.float32)


def sum_like(values, step):
    """Summed over what shares a step size."""
    return values.sum(axis=tuple(axis for axis in range(3) if step.shape[axis] == 1), keepdims=True)


def differentiate_slowly(x, step, cotangent, bits):
    """Gradients of x and step by equations 1 to 5, value by value in float64."""
    largest = 2 ** (bits - 1) - 1
    v = x.astype(np.float64) / step
    by_step = np.where(v <= -largest, -largest, np.where(v >= largest, largest, np.rint(v) - v))
    inside = np.abs(v) < largest
    scale = 1 / np.sqrt(x.size / step.size * largest)
    return cotangent * inside, sum_like(cotangent * by_step, step) * scale


def differentiate(x, step, cotangent, bits):
    (out,), gradients = mx.vjp(
        lambda x, step: [quantize_learned(x, step, bits)], [mx.array(x), mx.array(step)], [mx.array(cotangent)]
    )
    return np.array(out), *map(np.array, gradients)


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_the_value_is_rounded_and_clipped(kind, bits):
    x, step, cotangent = draw(kind, bits)
    largest = 2 ** (bits - 1) - 1
    codes = np.clip(np.rint(x.astype(np.float64) / step), -largest, largest)
    assert (np.abs(codes) == largest).any()
    np.testing.assert_allclose(differentiate(x, step, cotangent, bits)[0], codes * step, rtol=1e-6)
    np.testing.assert_allclose(quantize_learned(mx.array(x), mx.array(step), bits), codes * step, rtol=1e-6)


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_the_gradients_are_those_of_the_paper(kind, bits):
    x, step, cotangent = draw(kind, bits)
    _, by_x, by_step = differentiate(x, step, cotangent, bits)
    slow_x, slow_step = differentiate_slowly(x, step, cotangent, bits)
    np.testing.assert_array_equal(by_x, slow_x.astype(np.float32))
    np.testing.assert_allclose(by_step, slow_step, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_the_gradients_are_those_of_the_straight_through_surrogate(kind, bits):
    """Rounding adds a constant: finite differences of step clip(x / step + constant), clipped where x / step is."""
    x, step, cotangent = (part.astype(np.float64) for part in draw(kind, bits))
    largest = 2 ** (bits - 1) - 1
    constant = np.rint(x / step) - x / step

    def evaluate(x, step):
        v = x / step
        return np.where(np.abs(v) <= largest, v + constant, np.clip(v, -largest, largest)) * step * cotangent

    slow_x = (evaluate(x + 1e-7, step) - evaluate(x - 1e-7, step)) / 2e-7
    slow_step = sum_like((evaluate(x, step * (1 + 1e-7)) - evaluate(x, step * (1 - 1e-7))) / (2e-7 * step), step)
    inputs = (part.astype(np.float32) for part in (x, step, cotangent))
    _, by_x, by_step = differentiate(*inputs, bits)
    np.testing.assert_allclose(by_x, slow_x, atol=1e-4)
    np.testing.assert_allclose(by_step, slow_step / np.sqrt(x.size / step.size * largest), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_value_at_the_largest_code_is_inside_the_range(sign):
    x = np.full((1, 1, 2), sign * 127 * 0.25, np.float32)
    x[..., 1] *= 1.01
    out, by_x, by_step = differentiate(x, np.full((1, 1, 1), 0.25, np.float32), np.ones((1, 1, 2), np.float32), 8)
    assert out.ravel().tolist() == [sign * 31.75] * 2
    assert by_x.ravel().tolist() == [1, 0]
    assert by_step.item() == pytest.approx(sign * 127 / np.sqrt(2 * 127))  # 0 for the first, the code for the second


def test_a_single_step_size_has_the_gradient_scale_of_all_values():
    """A sixteenth of the values with a step of their own: four times the gradient's scale for each."""
    x, cotangent = np.full((1, 16, 4), 9.0, np.float32), np.ones((1, 16, 4), np.float32)
    shared = differentiate(x, np.ones((1, 1, 1), np.float32), cotangent, 3)[2]
    own = differentiate(x, np.ones((1, 1, 4), np.float32), cotangent, 3)[2]
    assert shared.item() == pytest.approx(3 * 64 / np.sqrt(64 * 3))
    np.testing.assert_allclose(own.ravel(), 3 * 16 / np.sqrt(16 * 3))
