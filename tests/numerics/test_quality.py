"""Ratios in dB agree with plain loops."""

import math

import numpy as np
import pytest

from taqmlx.numerics.quality import bound_median, compare_weights, measure_psnr, measure_snr


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((2, 3, 4)).astype(np.float32)
    return reference + 0.1 * rng.standard_normal(reference.shape).astype(np.float32), reference


def measure_snr_slowly(approximation, reference):
    pairs = list(zip(approximation.ravel().tolist(), reference.ravel().tolist(), strict=True))
    return 10 * math.log10(sum(r * r for _, r in pairs) / sum((r - a) ** 2 for a, r in pairs))


def test_snr_agrees_with_a_loop(pair):
    assert measure_snr(*pair) == pytest.approx(measure_snr_slowly(*pair), abs=1e-9)


def test_an_error_of_a_tenth_is_20_db():
    reference = np.full((2, 2), 5.0, np.float32)
    assert measure_snr(0.9 * reference, reference) == pytest.approx(20, abs=1e-5)


def test_an_error_of_one_grey_level_is_48_db():
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    for other in (picture + 1, picture):
        assert measure_psnr(other, 1 - other) == pytest.approx(48.13, abs=0.01)  # in both directions: no wrapping


def test_equal_values_have_an_infinite_ratio(pair):
    assert measure_snr(pair[0], pair[0]) == math.inf
    assert measure_psnr(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2, 3), np.uint8)) == math.inf


def test_a_zero_signal_has_a_ratio_of_minus_infinity():
    assert measure_snr(np.ones(3), np.zeros(3)) == -math.inf


def test_differences_of_weights_are_summarised(pair):
    found = compare_weights(*pair)
    differences = [abs(a - r) for a, r in zip(*(part.ravel().tolist() for part in pair), strict=True)]
    assert found["mean"] == pytest.approx(sum(differences) / len(differences))
    assert found["max"] == pytest.approx(max(differences))
    assert found["relative_db"] == pytest.approx(-measure_snr_slowly(*pair))


def test_the_interval_of_a_median_is_that_of_order_statistics():
    differences = np.random.default_rng(1).standard_normal(400)
    value, ends = bound_median(differences)
    ordered = np.sort(differences)
    assert value == pytest.approx((ordered[199] + ordered[200]) / 2)
    half = 1.96 * math.sqrt(400) / 2  # binomial count of values below the median
    np.testing.assert_allclose(ends, ordered[[round(199 - half), round(200 + half)]], atol=0.03)
