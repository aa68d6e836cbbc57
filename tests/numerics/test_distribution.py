"""Distances between sets of features agree with their definitions."""

import numpy as np
import pytest

from taqmlx.numerics.distribution import (
    compute_cubic_kernel,
    compute_gaussian_kernel,
    compute_kernels,
    draw_counts,
    find_centred_interval,
    find_interval,
    fit_gaussian,
    measure_cmmd,
    measure_frechet,
    measure_paired,
    measure_unbiased,
)


def draw(n, d, shift=0.0, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)) * np.linspace(0.5, 2, d) + shift


def distance(x, y, weigh_x=None, weigh_y=None):
    weights = [np.ones(len(z)) if w is None else w for z, w in ((x, weigh_x), (y, weigh_y))]
    return measure_frechet(fit_gaussian(x, weights[0]), fit_gaussian(y, weights[1]))


def take_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T


def measure_frechet_slowly(x, y):
    """By the matrix root of the definition."""
    c_x, c_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = take_root(c_x)
    shared = np.trace(take_root(root @ c_y @ root))
    return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c_x) + np.trace(c_y) - 2 * shared


@pytest.mark.parametrize(("n", "m", "d"), [(60, 90, 8), (10, 14, 30)], ids=["more rows", "more features"])
def test_the_frechet_distance_agrees_with_its_definition(n, m, d):
    x, y = draw(n, d), draw(m, d, 0.3, 1)
    assert distance(x, y) == pytest.approx(measure_frechet_slowly(x, y), rel=1e-6)


def test_the_frechet_distance_of_shifted_gaussians_is_the_squared_shift():
    x = draw(50, 6)
    assert distance(x, x + 2) == pytest.approx(6 * 4)


def test_weights_count_rows():
    x, y, counts = draw(30, 4), draw(20, 4, 1, 1), np.random.default_rng(2).integers(0, 3, 30).astype(float)
    rows = np.repeat(np.arange(30), counts.astype(int))
    weighted = distance(x, y, counts)
    assert weighted == pytest.approx(distance(x[rows], y))


def test_the_unbiased_discrepancy_is_the_sum_over_pairs():
    x, y = draw(7, 3), draw(5, 3, 0.5, 1)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    kernels = compute_kernels(compute_cubic_kernel, x, y)
    assert measure_unbiased(kernels, np.ones(7), np.ones(5)) == pytest.approx(expected)


def test_the_unbiased_discrepancy_is_zero_on_average():
    found = [
        measure_unbiased(
            compute_kernels(compute_cubic_kernel, draw(40, 3, seed=2 * i), draw(40, 3, seed=2 * i + 1)),
            *[np.ones(40)] * 2,
        )
        for i in range(300)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300)


def test_equal_features_have_a_distance_of_zero():
    x, ones = draw(40, 5), np.ones(40)
    assert distance(x, x) == pytest.approx(0, abs=1e-10)
    assert measure_paired(compute_kernels(compute_cubic_kernel, x, x), ones, ones) == pytest.approx(0, abs=1e-10)
    assert measure_cmmd(x, x) == pytest.approx(0, abs=1e-10)


def test_cmmd_of_two_far_points_is_twice_the_scale():
    x, y = np.zeros((3, 2)), np.full((4, 2), 1e3)
    assert measure_cmmd(x, y) == pytest.approx(2000)
    assert compute_gaussian_kernel(np.zeros((1, 2)), np.array([[6.0, 8.0]]))[0, 0] == pytest.approx(np.exp(-0.5))


def test_pictures_of_a_prompt_are_resampled_together():
    prompts = np.array([3, 3, 8, 8, 8, 9])
    counts = draw_counts(prompts, seed=1, resamples=50)
    assert 40 <= len(counts) <= 50
    assert (np.count_nonzero(counts[:, [0, 2, 5]], axis=1) >= 2).all()
    for prompt in (3, 8, 9):
        assert (np.ptp(counts[:, prompts == prompt], axis=1) == 0).all()
    assert (counts[:, [0, 2, 5]].sum(axis=1) == 3).all()
    assert (counts == draw_counts(prompts, seed=1, resamples=50)).all()


def test_an_interval_covers_the_mean_as_often_as_stated():
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        values = rng.standard_normal(60)
        counts = draw_counts(np.arange(60), seed=trial)
        low, high = find_interval(counts @ values / 60)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_centred_interval_contains_the_value_and_respects_the_bound():
    low, high = find_centred_interval(np.array([4.0, 5.0, 6.0]), 0.5, least=0)
    assert low == 0
    assert 0.5 < high < 2
