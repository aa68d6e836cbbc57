"""Statistics of how inputs change over a trajectory."""

import numpy as np
import pytest

from taqmlx.numerics import temporal_analysis


def test_scales_are_summarised_over_steps():
    found = temporal_analysis.summarise_scale([1.0, 4.0, 2.5])
    assert found == {"mean_scale": 2.5, "min_scale": 1.0, "max_scale": 4.0}


def test_shifts_are_summarised_by_magnitude():
    found = temporal_analysis.summarise_shift(np.array([-3, 1, 2], np.float32))
    assert found == {"max_shift_magnitude": 3.0, "mean_shift_magnitude": 2.0}


@pytest.mark.parametrize(("absmax", "drift"), [([2.0, 1.0, 3.0], 3.0), ([0.0, 0.0], 1.0)])
def test_drift_is_the_ratio_of_the_largest_to_the_smallest(absmax, drift):
    assert temporal_analysis.compute_drift(absmax) == drift


def test_every_phase_has_its_range():
    per_step = {"min": [-1, -4, -2], "max": [3, 2, 1], "absmax": [3, 4, 2]}
    found = temporal_analysis.find_phase_ranges(per_step, [1.0, 0.9, 0.5])
    assert found == {
        "early": {"min": -4, "max": 3, "absmax": 4},
        "mid": {"min": -2, "max": 1, "absmax": 2},
        "late": None,
    }
