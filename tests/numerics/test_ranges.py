"""The ratios that show which inputs are hard to quantize."""

import numpy as np

from taqmlx.numerics.ranges import measure_input


def test_ratios_equal_the_plain_formulas():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 100, 5)) * [1, 1, 1, 1, 20] * np.array([1, 2, 4])[:, None, None]
    absmax = [np.abs(step).max() for step in x]
    per_step = {
        "absmax": absmax,
        "std": [step.std() for step in x],
        "negative_share": [np.mean(step < 0) for step in x],
    }
    found = measure_input(per_step, x.min(axis=1), x.max(axis=1))
    widths = [np.ptp(x[..., channel]) for channel in range(5)]
    assert found["drift"] == max(absmax) / min(absmax)
    assert found["crest"] == max(np.abs(step).max() / step.std() for step in x)
    assert found["channel_spread"] == max(widths) / np.median(widths)
    assert found["negative_share"] == np.mean(x < 0)
    assert (found["min"], found["max"]) == (x.min(), x.max())
    assert "shift_gain" not in found


def test_a_one_sided_input_is_asymmetric_and_benefits_from_a_shift():
    per_step = {"absmax": [2.0], "std": [0.5], "negative_share": [0.0], "shifted_absmax": [1.0]}
    found = measure_input(per_step, np.zeros((1, 2)), np.full((1, 2), 2.0))
    assert found["asymmetry"] == 1
    assert found["shift_gain"] == 2


def test_an_input_of_zeros_is_easy():
    per_step = {"absmax": [0.0, 0.0], "std": [0.0, 0.0], "negative_share": [0.0, 0.0]}
    found = measure_input(per_step, np.zeros((2, 2)), np.zeros((2, 2)))
    assert (found["drift"], found["crest"], found["channel_spread"]) == (1, 1, 1)
