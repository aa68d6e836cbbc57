"""The phases of a trajectory group its noise levels."""

import numpy as np
import pytest

from taqmlx.numerics.phases import PHASES, find_phase, group_by_phase


@pytest.mark.parametrize(
    ("sigma", "phase"),
    [(1.0, "early"), (0.71, "early"), (0.7, "mid"), (0.5, "mid"), (0.3, "mid"), (0.29, "late"), (0.0, "late")],
)
def test_every_noise_level_has_one_phase(sigma, phase):
    assert find_phase(sigma) == phase
    low, high = PHASES[phase]
    assert low <= sigma <= high


def test_values_are_grouped_in_order():
    grouped = group_by_phase([5, 1, 4, 2], [1.0, 0.4, 0.8, 0.5])
    assert {name: values.tolist() for name, values in grouped.items()} == {"early": [5, 4], "mid": [1, 2], "late": []}
    assert list(grouped) == list(PHASES)
    assert isinstance(grouped["late"], np.ndarray)
