"""Flat statistics equal those of the values, and suggested bits follow the earliest rule."""

import numpy as np
import pytest

from taqmlx.numerics.legacy_analysis import PERCENTILES, advise_bits, advise_layer, join_steps

ROWS, CHANNELS = [50, 10, 30], 4


@pytest.fixture
def steps():
    """Values (rows, channels) of three steps with other means and widths."""
    rng = np.random.default_rng(0)
    return [rng.normal(3 * place, 1 + place, (rows, CHANNELS)) for place, rows in enumerate(ROWS)]


def test_joined_steps_have_the_statistics_of_all_values(steps):
    per_step = {name: [getattr(x, name)() for x in steps] for name in ("min", "max", "mean", "std")}
    every = np.concatenate(steps)
    overall = {f"p{percent}": np.percentile(every, percent) for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
    flat = join_steps(per_step, ROWS, CHANNELS, overall)
    for name in ("min", "max", "mean", "std"):
        assert flat[name] == pytest.approx(getattr(every, name)(), rel=1e-12)
    assert flat["num_samples"] == every.size
    assert list(flat["percentiles"]) == ["p01", "p05", "p10", "p25", "p50", "p75", "p90", "p95", "p99"]
    assert flat["percentiles"]["p05"] == np.percentile(every, 5)


def describe(low, high, std, least=None, most=None):
    """Flat statistics with these quantiles p01 and p99; by default nothing lies outside them."""
    percentiles = dict.fromkeys(PERCENTILES, 0.0) | {"p01": low, "p99": high}
    least, most = (low if least is None else least), (high if most is None else most)
    return {"min": least, "max": most, "mean": 0.0, "std": std, "percentiles": percentiles}


@pytest.mark.parametrize(
    ("low", "high", "std", "bits"),
    [
        (-2.5, 2.5, 0.1, 4),
        (-2.5, 2.6, 0.1, 6),
        (-5, 5, 0.1, 6),
        (-5, 5.1, 0.1, 8),
        (-2, 2, 2.0, 4),
        (-2, 2, 2.1, 6),
        (-3, 3, 3.1, 8),
        (-6, 6, 6.1, 8),
        (0, 0, 1.0, 6),
    ],
)
def test_bits_follow_the_range_and_the_deviation(low, high, std, bits):
    advice = advise_layer(describe(low, high, std))
    assert advise_bits(describe(low, high, std)) == advice["weight_bits"] == advice["activation_bits"] == bits


@pytest.mark.parametrize(("most", "clip"), [(1.0, [0, 100]), (1.2, [0, 100]), (1.3, [1, 99])])
def test_tails_are_clipped_if_they_exceed_a_tenth_of_the_range(most, clip):
    assert advise_layer(describe(-1, 1, 0.1, -1, most))["clip_percentile"] == clip


def test_scale_and_zero_point_map_the_quantiles_to_the_first_and_last_code():
    advice = advise_layer(describe(-0.5, 2.5, 0.1))
    codes = [value / advice["scale"] + advice["zero_point"] for value in (-0.5, 2.5)]
    np.testing.assert_allclose(codes, [0, 15], atol=1e-12)


def test_a_tensor_without_a_range_has_a_finite_zero_point():
    advice = advise_layer(describe(0, 0, 0.0))
    assert (advice["scale"], advice["zero_point"], advice["activation_bits"]) == (0.0, 0.0, 4)


def test_the_statistics_behind_the_suggestion_are_included():
    assert list(advise_layer(describe(-1, 1, 0.1))["calibration_stats"]) == ["min", "max", "mean", "std", "p01", "p99"]
