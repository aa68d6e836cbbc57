"""Learned rounding is AdaRound's: its rectified sigmoid, regularizer and schedules."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics import rounding

ITERATIONS, WARM_UP, ENDS = 1000, 0.2, (20, 2)


def compute_exactly(alpha):
    """Equation 23 in float64."""
    return np.clip(1.2 / (1 + np.exp(-np.asarray(alpha, np.float64))) - 0.1, 0, 1)


def test_the_soft_rounding_is_the_rectified_sigmoid_within_3e_7():
    alpha = np.concatenate([np.linspace(-6, 6, 100_001), [-600, -40, 40, 600]]).astype(np.float32)
    found = np.array(rounding.compute_rounding(mx.array(alpha)))
    assert found.dtype == np.float32
    assert np.abs(found - compute_exactly(alpha)).max() <= 3e-7


def test_the_soft_rounding_reaches_both_ends_exactly():
    beyond = np.float32(rounding.SATURATION) * np.array([-100, -1.0001, 1.0001, 100], np.float32)
    assert rounding.compute_rounding(mx.array(beyond)).tolist() == [0, 0, 1, 1]
    before = np.array(rounding.compute_rounding(mx.array([-0.999, 0.999]) * rounding.SATURATION))
    assert (before > 0).all()
    assert (before < 1).all()


def test_the_soft_rounding_can_be_inverted():
    h = np.concatenate([np.linspace(1e-6, 1 - 1e-6, 10_001), [0.5]])
    alpha = rounding.invert_rounding(h)
    assert alpha.dtype == np.float32
    assert np.abs(np.array(rounding.compute_rounding(mx.array(alpha))) - h).max() <= 1e-6
    assert alpha[-1] == 0
    assert np.isfinite(rounding.invert_rounding(np.array([0.0, 1.0]))).all()


def test_the_slope_is_the_numerical_derivative():
    alpha = np.linspace(-2.39, 2.39, 501)
    slow = (compute_exactly(alpha + 1e-5) - compute_exactly(alpha - 1e-5)) / 2e-5
    found = rounding.compute_slope(rounding.compute_rounding(mx.array(alpha.astype(np.float32))))
    np.testing.assert_allclose(np.array(found), slow, atol=2e-6)


def test_the_slope_is_zero_where_the_sigmoid_is_saturated():
    assert rounding.compute_slope(rounding.compute_rounding(mx.array([-9.0, -2.41, 2.41, 9.0]))).tolist() == [0] * 4


@pytest.mark.parametrize("beta", [20.0, 7.3, 2.0])
def test_the_gradient_of_the_regularizer_is_its_numerical_derivative(beta):
    h = np.concatenate([np.linspace(0.001, 0.999, 300), [0.5]])

    def sum_regulariser(h):
        return np.sum(1 - np.abs(2 * h - 1) ** beta)

    slow = [(sum_regulariser(h + step) - sum_regulariser(h - step)) / 2e-6 for step in 1e-6 * np.eye(len(h))]
    found = np.array(rounding.differentiate_regularizer(mx.array(h.astype(np.float32)), 0.3, beta) / 0.3)
    np.testing.assert_allclose(found, slow, atol=1e-4 * beta)


def test_descent_on_the_regularizer_leads_to_the_nearer_end():
    gradient = np.array(rounding.differentiate_regularizer(mx.array([0.2, 0.5, 0.8]), 1.0, 2.0))
    assert gradient[0] > 0 == gradient[1] > gradient[2]


def test_the_exponent_falls_linearly_after_the_warm_up():
    found = [rounding.compute_beta(i, ITERATIONS, WARM_UP, ENDS) for i in range(ITERATIONS + 1)]
    assert found[:200] == [None] * 200
    np.testing.assert_allclose(found[200:], np.linspace(20, 2, 801))


def test_without_a_warm_up_the_regularizer_is_on_from_the_start():
    assert rounding.compute_beta(0, ITERATIONS, 0, ENDS) == 20


def test_the_learning_rate_follows_half_a_cosine():
    found = [rounding.compute_rate(i, 100, 0.04) for i in (0, 25, 50, 75, 100)]
    np.testing.assert_allclose(found, 0.02 * (1 + np.cos(np.pi * np.array([0, 0.25, 0.5, 0.75, 1]))), atol=1e-17)
    assert found[0] == 0.04
    assert found[-1] == pytest.approx(0, abs=1e-17)
