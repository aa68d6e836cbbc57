"""FID, KID and SSIM of torchmetrics agree with their definitions."""

import numpy as np
import pytest
import torch

from taqmlx.evaluation.distances import (
    SUBSETS,
    choose_subset,
    compute_fid,
    compute_kid,
    compute_paired_kid,
    compute_ssim,
)
from taqmlx.numerics.distribution import fit_gaussian, measure_frechet, measure_kernel_distance
from taqmlx.store.errors import UserError


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((16, 16))
    found, reference = rng.standard_normal((90, 16)) @ mix + 0.2, rng.standard_normal((150, 16)) @ mix
    return found.astype(np.float32), reference.astype(np.float32)


def draw_subsets(seed, m, n, size):
    """The subsets torchmetrics draws: of the reference first, then of what is measured."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pairs = [[torch.randperm(count)[:size].numpy() for count in (m, n)] for _ in range(SUBSETS)]
    return [(found, reference) for reference, found in pairs]


def test_fid_agrees_with_an_independent_calculation(features):
    found, reference = (rows.astype(np.float64) for rows in features)
    expected = measure_frechet(fit_gaussian(found, np.ones(90)), fit_gaussian(reference, np.ones(150)))
    assert compute_fid(*features) == pytest.approx(expected, rel=1e-4)


def test_kid_agrees_with_an_independent_calculation(features):
    found, reference = (rows.astype(np.float64) for rows in features)
    subsets = draw_subsets(5, 150, 90, choose_subset(90, 150))
    expected = measure_kernel_distance(found, reference, subsets)
    assert compute_kid(*features, seed=5) == pytest.approx(expected, rel=1e-4)


def test_equal_features_give_zero(features):
    found, _ = features
    scale = float(np.square(found).sum(axis=1).mean())
    assert compute_fid(found, found) == pytest.approx(0, abs=1e-4 * scale)
    assert compute_paired_kid(found, found) == pytest.approx(0, abs=1e-9)


def test_kid_of_different_features_is_above_zero(features):
    found, _ = features
    assert compute_paired_kid(found, found + 1) > 0.01


def test_subsets_fit_the_smaller_set():
    assert choose_subset(512, 2048) == 256
    assert choose_subset(10_000, 50_000) == 1000
    with pytest.raises(UserError, match="3 pictures are too few"):
        choose_subset(512, 3)


def test_ssim_is_one_only_for_equal_pictures():
    pictures = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    other = pictures.copy()
    other[1] = 255 - other[1]
    equal, negative = compute_ssim(other, pictures)
    assert equal == pytest.approx(1)
    assert negative < 0.2


def test_ssim_is_the_mean_over_windows():
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 256, (2, 1, 13, 13, 3)).astype(np.uint8)
    place = np.arange(-5, 6)
    window = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    x, y = (
        np.pad(x, [(0, 0), (5, 5), (5, 5), (0, 0)], mode="reflect"),
        np.pad(y, [(0, 0), (5, 5), (5, 5), (0, 0)], mode="reflect"),
    )
    values, (c1, c2) = [], ((0.01 * 255) ** 2, (0.03 * 255) ** 2)
    for row in range(13):  # over the edge the picture is mirrored
        for column in range(13):
            a, b = (z[0, row : row + 11, column : column + 11].astype(float) for z in (x, y))
            mean_a, mean_b = (np.tensordot(window, z, 2) for z in (a, b))
            var_a, var_b, both = (
                np.tensordot(window, p * q, 2) - m * n
                for p, q, m, n in ((a, a, mean_a, mean_a), (b, b, mean_b, mean_b), (a, b, mean_a, mean_b))
            )
            top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
            values.append(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    pair = (z[:, 5:-5, 5:-5] for z in (x, y))
    assert compute_ssim(*pair)[0] == pytest.approx(np.mean(values), abs=1e-9)
