"""The selected timesteps that the statistics observe."""

import pytest

from taqmlx.planning.step_choice import select_timesteps


def test_the_key_selection_of_50_steps_is_denser_in_the_middle():
    expected = [0, 5, 10, 12, 15, 16, 19, 22, 25, 28, 31, 33, 37, 38, 43, 48, 49]
    assert select_timesteps("key", range(50)) == expected


@pytest.mark.parametrize(
    ("choice", "expected"), [("all", [0, 4, 8, 12, 16]), (2, [0, 8, 16]), (3, [0, 12, 16]), (9, [0, 16])]
)
def test_a_stride_keeps_the_last_step(choice, expected):
    assert select_timesteps(choice, [0, 4, 8, 12, 16]) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 25])
def test_the_key_selection_of_few_steps_is_a_subset(n):
    chosen = select_timesteps("key", range(n))
    assert chosen[0] == 0
    assert chosen[-1] == n - 1
    assert chosen == sorted(set(chosen))
