"""The CPU's functions equal the exact ones within the errors they state, and so do their gradients."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from workflow_scripts.numerics.elementwise import (
    KERNELS,
    approximate_gelu,
    approximate_softmax,
    attend_explicitly,
    normalize_by_products,
)


def compute_gelu(values):
    """x Phi(x) in float64; erfc keeps the small tail exact."""
    return np.array([x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in values])


def compute_softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_gelu_is_within_two_millionths():
    x = np.concatenate([np.linspace(-30, 30, 60001), np.array([-1e4, 1e4])]).astype(np.float32)
    np.testing.assert_allclose(np.array(approximate_gelu(mx.array(x))), compute_gelu(x.astype(float)), atol=2e-6)


def test_gelu_has_the_slope_of_gelu():
    x = mx.linspace(-8, 8, 4001)  # zero among them
    slopes = [mx.grad(lambda x, f=f: mx.sum(f(x)))(x) for f in (approximate_gelu, nn.gelu)]
    np.testing.assert_allclose(*map(np.array, slopes), atol=5e-5)


def test_gelu_has_a_finite_slope_everywhere():
    slope = np.array(mx.grad(lambda x: mx.sum(approximate_gelu(x)))(mx.array([-1e30, -1e3, 0.0, 1e3, 1e30])))
    np.testing.assert_allclose(slope[[0, 1, 3, 4]], [0, 0, 1, 1], atol=1e-6)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("spread", [0.1, 3.0, 1000.0])
def test_softmax_is_within_four_millionths(spread):
    scores = spread * np.random.default_rng(0).standard_normal((3, 2, 36, 36)).astype(np.float32)
    result = np.array(approximate_softmax(mx.array(scores), 0.125))
    np.testing.assert_allclose(result, compute_softmax(0.125 * scores.astype(float)), atol=4e-6)


def test_softmax_has_the_slope_of_softmax():
    scores, weight = (mx.random.normal((2, 3, 7, 9), key=key) for key in mx.random.split(mx.random.key(2), 2))
    slopes = [
        mx.grad(lambda s, f=f: mx.sum(f(s) * weight))(scores)
        for f in (lambda s: approximate_softmax(s, 0.5), lambda s: mx.softmax(0.5 * s, axis=-1))
    ]
    np.testing.assert_allclose(*map(np.array, slopes), atol=4e-6)


def test_softmax_has_a_finite_slope_for_scores_far_apart():
    scores = mx.array([[0.0, 1e4, -1e4], [1.0, 2.0, 3.0]])
    weight = mx.array([[1.0, 2.0, 3.0]])
    slopes = [
        mx.grad(lambda s, f=f: mx.sum(f(s) * weight))(scores)
        for f in (lambda s: approximate_softmax(s, 0.5), lambda s: mx.softmax(0.5 * s, axis=-1))
    ]
    np.testing.assert_allclose(*map(np.array, slopes), atol=1e-5)


def test_attention_is_that_of_mlx():
    q, k, v = (mx.random.normal((2, 3, 7, 8), key=key) for key in mx.random.split(mx.random.key(0), 3))
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4)
    np.testing.assert_allclose(np.array(attend_explicitly(q, k, v, 0.4)), np.array(expected), atol=1e-5)


def test_layer_norm_is_that_of_mlx():
    x = 5 + 3 * mx.random.normal((4, 6, 32), key=mx.random.key(0))
    expected = mx.fast.layer_norm(x, None, None, 1e-6)
    np.testing.assert_allclose(np.array(normalize_by_products(x, 1e-6)), np.array(expected), atol=5e-6)


@pytest.mark.parametrize("device", KERNELS)
def test_every_device_computes_the_same(device):
    """The functions chosen for a GPU run on a CPU too."""
    kernels, exact = KERNELS[device], KERNELS[mx.gpu]
    x = mx.random.normal((2, 2, 9, 16), key=mx.random.key(1))
    np.testing.assert_allclose(np.array(kernels.gelu(x)), np.array(exact.gelu(x)), atol=3e-6)
    np.testing.assert_allclose(np.array(kernels.layer_norm(x, 1e-6)), np.array(exact.layer_norm(x, 1e-6)), atol=5e-6)
    np.testing.assert_allclose(
        np.array(kernels.attend(x, x, x, 0.25)), np.array(exact.attend(x, x, x, 0.25)), atol=1e-5
    )
