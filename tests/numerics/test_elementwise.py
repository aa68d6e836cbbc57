"""The CPU's elementwise functions and their gradients are exact within their stated errors."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from taqmlx.numerics.elementwise import (
    KERNELS,
    approximate_gelu,
    approximate_softmax,
    attend_explicitly,
    exponentiate,
    normalize_by_products,
)


def compute_gelu(values):
    """x Phi(x) in float64; erfc keeps the small tail exact."""
    return np.array([x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in values])


def compute_softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def measure_units(found, exact):
    """The largest error in units of the last place of the exact values."""
    return (np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))).max()


def test_gelu_is_as_precise_as_fp32():
    x = np.concatenate([np.geomspace(1e-30, 1e-3, 20000), np.linspace(1e-3, 30, 80000), [1e4, 1e30]]).astype(np.float32)
    above, below = (np.array(approximate_gelu(mx.array(sign * x))) for sign in (1, -1))
    assert measure_units(above, compute_gelu(x.astype(float))) <= 3.5
    assert np.abs((below - compute_gelu(-x.astype(float))) / x).max() <= 1.8e-7
    assert not approximate_gelu(mx.zeros(1)).item()


def test_gelu_is_more_precise_than_that_of_mlx():
    x = np.linspace(-6, 6, 60001).astype(np.float32)
    errors = [np.array(f(mx.array(x))) - compute_gelu(x.astype(float)) for f in (approximate_gelu, nn.gelu)]
    assert np.abs(errors[0]).max() <= np.abs(errors[1]).max()


def test_powers_of_two_are_as_precise_as_fp32():
    y = np.linspace(-126, 127, 500001).astype(np.float32)
    assert measure_units(np.array(exponentiate(mx.array(y))), np.exp2(y.astype(float))) <= 1.2
    whole = np.arange(-126.0, 128.0, dtype=np.float32)
    np.testing.assert_array_equal(np.array(exponentiate(mx.array(whole))), np.exp2(whole.astype(float)))


def test_the_gradient_of_gelu_is_its_slope():
    x = mx.linspace(-8, 8, 4001)  # zero among them
    slopes = [mx.grad(lambda x, f=f: mx.sum(f(x)))(x) for f in (approximate_gelu, nn.gelu)]
    np.testing.assert_allclose(*map(np.array, slopes), atol=5e-5)


def test_the_gradient_of_gelu_is_finite_everywhere():
    slope = np.array(mx.grad(lambda x: mx.sum(approximate_gelu(x)))(mx.array([-1e30, -1e3, 0.0, 1e3, 1e30])))
    np.testing.assert_allclose(slope[[0, 1, 3, 4]], [0, 0, 1, 1], atol=1e-6)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0, 1000.0])
def test_softmax_is_as_precise_as_that_of_mlx(spread):
    scores = spread * np.random.default_rng(0).standard_normal((3, 2, 36, 36)).astype(np.float32)
    exact, functions = compute_softmax(0.125 * scores.astype(float)), (approximate_softmax, scale_and_normalize)
    errors = [np.array(f(mx.array(scores), 0.125)) - exact for f in functions]
    largest, root_mean_square = (
        [measure(error) for error in errors]
        for measure in (lambda e: np.abs(e).max(), lambda e: np.sqrt((e**2).mean()))
    )
    assert largest[0] <= 4e-7
    assert root_mean_square[0] <= 1.1 * root_mean_square[1]


def scale_and_normalize(scores, scale):
    return mx.softmax(scale * scores, axis=-1)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_softmax_of_non_finite_values_is_not_finite(broken):
    weights = np.array(approximate_softmax(mx.array([[broken, 0.0, 1.0], [2.0, 0.0, 1.0]]), 1.0))
    assert np.isnan(weights[0]).all()
    assert np.isfinite(weights[1]).all()


def test_softmax_in_fp16_equals_that_in_fp32():
    scores = mx.random.normal((4, 9), key=mx.random.key(3)).astype(mx.float16)
    found = approximate_softmax(scores, 0.5)
    assert found.dtype == mx.float16
    np.testing.assert_allclose(
        np.array(found), np.array(approximate_softmax(scores.astype(mx.float32), 0.5)), rtol=1e-3, atol=1e-6
    )


def test_the_gradient_of_softmax_is_its_slope():
    scores, weight = (mx.random.normal((2, 3, 7, 9), key=key) for key in mx.random.split(mx.random.key(2), 2))
    slopes = [
        mx.grad(lambda s, f=f: mx.sum(f(s) * weight))(scores)
        for f in (lambda s: approximate_softmax(s, 0.5), lambda s: mx.softmax(0.5 * s, axis=-1))
    ]
    np.testing.assert_allclose(*map(np.array, slopes), atol=4e-6)


def test_the_gradient_of_softmax_is_finite_for_distant_scores():
    scores = mx.array([[0.0, 1e4, -1e4], [1.0, 2.0, 3.0]])
    weight = mx.array([[1.0, 2.0, 3.0]])
    slopes = [
        mx.grad(lambda s, f=f: mx.sum(f(s) * weight))(scores)
        for f in (lambda s: approximate_softmax(s, 0.5), lambda s: mx.softmax(0.5 * s, axis=-1))
    ]
    np.testing.assert_allclose(*map(np.array, slopes), atol=1e-5)


def test_attention_equals_that_of_mlx():
    q, k, v = (mx.random.normal((2, 3, 7, 8), key=key) for key in mx.random.split(mx.random.key(0), 3))
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4)
    np.testing.assert_allclose(np.array(attend_explicitly(q, k, v, 0.4)), np.array(expected), atol=1e-5)


def test_layer_norm_equals_that_of_mlx():
    x = 5 + 3 * mx.random.normal((4, 6, 32), key=mx.random.key(0))
    expected = mx.fast.layer_norm(x, None, None, 1e-6)
    np.testing.assert_allclose(np.array(normalize_by_products(x, 1e-6)), np.array(expected), atol=5e-6)


@pytest.mark.parametrize("device", KERNELS)
def test_every_device_computes_the_same_values(device):
    """The functions chosen for a GPU run on a CPU too."""
    kernels, exact = KERNELS[device], KERNELS[mx.gpu]
    x = mx.random.normal((2, 2, 9, 16), key=mx.random.key(1))
    np.testing.assert_allclose(np.array(kernels.gelu(x)), np.array(exact.gelu(x)), atol=5e-7)
    np.testing.assert_allclose(np.array(kernels.layer_norm(x, 1e-6)), np.array(exact.layer_norm(x, 1e-6)), atol=5e-6)
    np.testing.assert_allclose(
        np.array(kernels.attend(x, x, x, 0.25)), np.array(exact.attend(x, x, x, 0.25)), atol=3e-6
    )
