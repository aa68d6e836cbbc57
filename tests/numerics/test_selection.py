"""Which points the statistics read."""

import numpy as np
import pytest

from workflow_scripts.numerics.selection import choose_points, choose_steps


def test_the_dense_middle_choice_of_fifty_steps():
    expected = [0, 5, 10, 12, 15, 16, 19, 22, 25, 28, 31, 33, 37, 38, 43, 48, 49]
    assert choose_steps("key", range(50)) == expected


@pytest.mark.parametrize(
    ("choice", "expected"), [("all", [0, 4, 8, 12, 16]), (2, [0, 8, 16]), (3, [0, 12, 16]), (9, [0, 16])]
)
def test_a_stride_keeps_the_last_step(choice, expected):
    assert choose_steps(choice, [0, 4, 8, 12, 16]) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 25])
def test_the_dense_middle_choice_of_few_steps_stays_among_them(n):
    chosen = choose_steps("key", range(n))
    assert chosen[0] == 0
    assert chosen[-1] == n - 1
    assert chosen == sorted(set(chosen))


@pytest.fixture
def point_steps():
    return np.random.default_rng(0).permutation(np.repeat([0, 4, 8, 12], 10))


def test_all_points_of_the_steps_are_taken_in_order(point_steps):
    points = choose_points(point_steps, [4, 12], limit=0, seed=1)
    plain = [i for step in (4, 12) for i, found in enumerate(point_steps) if found == step]
    assert points.tolist() == plain


def test_a_limit_is_shared_among_the_steps(point_steps):
    points = choose_points(point_steps, [0, 4, 8], limit=8, seed=1)
    assert np.bincount(point_steps[points], minlength=13)[[0, 4, 8]].tolist() == [3, 3, 2]
    assert len(set(points)) == 8


def test_the_seed_decides_the_draw(point_steps):
    draw = {seed: choose_points(point_steps, [0, 4], 6, seed).tolist() for seed in (1, 2)}
    assert draw[1] == choose_points(point_steps, [0, 4], 6, 1).tolist()
    assert draw[1] != draw[2]


def test_a_limit_above_what_there_is_takes_all(point_steps):
    assert len(choose_points(point_steps, [0, 4], limit=1000, seed=0)) == 20
