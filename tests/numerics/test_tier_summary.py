"""The summary of chosen bits."""

import numpy as np
import pytest

from taqmlx.numerics.tier_summary import find_most_by_phase, is_highly_variable, summarise_bits

BITS = {"a": np.array([4, 4, 4]), "b": np.array([8, 6, 8]), "c": np.array([8, 8, 8]), "d": np.array([4, 8, 8])}


def test_a_phase_needs_the_most_bits_of_its_noise_levels():
    found = find_most_by_phase(np.array([4, 6, 8, 4]), [1.0, 0.8, 0.5, 0.4])
    assert found == {"early": 6, "mid": 8, "late": None}


def test_decisions_are_counted_and_layers_listed():
    summary = summarise_bits(BITS, {"a": 300, "b": 100, "c": 100, "d": 100})
    assert (summary["total_layers"], summary["total_noise_levels"], summary["total_decisions"]) == (4, 3, 12)
    assert [summary[f"total_a{bits}"] for bits in (4, 6, 8)] == [4, 1, 7]
    assert [summary[f"a{bits}_percentage"] for bits in (4, 6, 8)] == pytest.approx([400 / 12, 100 / 12, 700 / 12])
    assert [summary[f"always_a{bits}"] for bits in (4, 6, 8)] == [["a"], [], ["c"]]
    assert summary["switching_layers"] == ["b", "d"]
    assert summary["uniform_bits"] == 8
    assert summary["mean_bits"] == pytest.approx((3 * 4 + 22 / 3 + 8 + 20 / 3) / 6)


def test_bits_outside_the_tiers_are_counted():
    summary = summarise_bits({"a": np.array([5, 4])}, {"a": 1})
    assert (summary["total_a5"], summary["total_a4"], summary["total_a8"]) == (1, 1, 0)


def test_no_layer_makes_no_decision():
    assert summarise_bits({}, {}) == {"total_layers": 0, "total_decisions": 0}


def test_a_layer_is_highly_variable_above_a_ratio_of_two():
    found = [is_highly_variable(np.array(values)) for values in ([1.0, 2.0], [1.0, 2.1], [0.0, 0.0], [0.0, 1.0])]
    assert found == [False, True, False, True]
