"""Measures have intervals, and values that JSON cannot hold are null."""

import numpy as np
import pytest

from taqmlx.evaluation.measures import (
    LATENT_MEASURES,
    compare_by_clip,
    compare_with_fixed,
    compare_with_partners,
    describe_growth,
    describe_pairs,
    describe_share,
)
from taqmlx.numerics.distribution import draw_counts

COUNT = 60
COUNTS = draw_counts(np.arange(COUNT), seed=0)


def draw(seed, count=COUNT, shift=0.0):
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32) + np.float32(shift)


def test_distances_grow_with_the_shift_and_lie_in_their_intervals():
    near, far = (compare_with_fixed(draw(0, shift=shift), draw(1, 200), COUNTS, seed=0) for shift in (0.1, 1.0))
    for name in ("fid", "kid"):
        assert near[name]["value"] < far[name]["value"]
        low, high = far[name]["interval_95"]
        assert low < far[name]["value"] < high
        assert low > near[name]["value"]


def test_equal_pairs_have_a_distance_of_zero():
    found = compare_with_partners(draw(0), draw(0), COUNTS)
    for name in ("fid", "kid"):
        assert found[name]["value"] == pytest.approx(0, abs=1e-6)
        assert found[name]["interval_95"] == pytest.approx([0, 0], abs=1e-6)


def test_cmmd_of_unit_vectors_has_an_interval():
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (draw(0, shift=2), draw(1, 90)))
    found = compare_by_clip(x, y, COUNTS, np.ones((len(COUNTS), 90)))
    low, high = found["interval_95"]
    assert 0 < low < found["value"] < high


def test_an_equal_pair_has_an_infinite_ratio_written_as_null():
    reference = draw(0)
    same = describe_pairs(LATENT_MEASURES, reference, reference, COUNTS)["latent_snr_db"]
    assert (same["median"], same["interval_95"], same["worst"], same["equal"]) == (None, [None, None], None, COUNT)
    near = describe_pairs(LATENT_MEASURES, reference * 1.1, reference, COUNTS)["latent_snr_db"]
    assert near["median"] == pytest.approx(20, abs=1e-3)
    assert near["equal"] == 0


def test_a_share_counts_pictures_by_prompt():
    right = np.arange(COUNT) % 4 > 0
    found = describe_share(right, COUNTS)
    low, high = found["interval_95"]
    assert low < found["value"] == 0.75 < high
    assert describe_share(right[:1], COUNTS[:, :1])["interval_95"] == [0, 0]


def test_growth_is_summarised_per_step():
    counts = draw_counts(np.arange(3), seed=0)
    found = describe_growth([[30.0, 20.0, 10.0], [None, None, 5.0]], counts)
    assert found["median"] == [20, None]
    assert found["interval_95"] == [[10, 30], [5, None]]
