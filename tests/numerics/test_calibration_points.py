"""Which states become calibration points, and their order."""

import numpy as np
import pytest

from taqmlx.numerics.calibration_points import invert_permutation, select_steps, shuffle_points


def test_the_selected_timesteps_are_those_of_the_paper():
    expected = [0, 4, 8, 12, 16, 20, 24, 28, 33, 37, 41, 45, 49, 53, 57, 61, 66, 70, 74, 78, 82, 86, 90, 94, 99]
    assert select_steps(100, 25).tolist() == expected


@pytest.mark.parametrize(("steps", "count"), [(20, 5), (7, 7), (1, 1), (9, 1), (50, 3)])
def test_timesteps_are_truncated_not_rounded(steps, count):
    spacing = (steps - 1) / (count - 1) if count > 1 else 0
    assert select_steps(steps, count).tolist() == [int(index * spacing + 1e-9) for index in range(count)]


def test_the_shuffle_is_that_of_numpy_for_the_seed():
    points = np.arange(40)
    assert np.array_equal(points[shuffle_points(40, 7)], np.random.default_rng(7).permutation(points))


def test_the_inverse_gives_the_position_of_each_point():
    permutation = shuffle_points(40, 0)
    inverse = invert_permutation(permutation)
    assert [int(np.flatnonzero(permutation == point)[0]) for point in range(40)] == inverse.tolist()
