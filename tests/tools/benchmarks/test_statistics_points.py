"""The summary of step sizes and pictures by the number of observed points, and the captions that are drawn."""

import argparse

import numpy as np
import pytest

from tools.benchmarks import statistics_points


def test_step_sizes_are_relative_to_those_of_the_largest_number_of_points():
    found = [
        {"points": 3, "steps": {"x": np.array([1.0, 2.0]), "y": np.array([3.0])}},
        {"points": 6, "steps": {"x": np.array([2.0, 2.0]), "y": np.array([2.0])}, "a8": [20.0]},
    ]
    fewer, most = statistics_points.summarise(found, argparse.Namespace(model="embedded", pictures=1))["counts"]
    assert fewer["step_over_last"] == pytest.approx({"p5": 0.55, "median": 1.0, "p95": 1.45})
    assert most["step_over_last"] == {"p5": 1, "median": 1, "p95": 1}
    assert "a8" not in fewer
    assert most["a8"] == [20.0]


def test_captions_are_none_of_those_in_use():
    model = statistics_points.load("embedded")
    cs, _, noise, _ = statistics_points.start_pictures(model, set(), 4)
    first = [caption.text for objects in (1, 2) for caption in statistics_points.write_captions(77, 4, objects)]
    other, *_ = statistics_points.start_pictures(model, set(first), 4)
    assert len(cs) == len(noise) == 4
    assert not np.array_equal(np.array(cs), np.array(other))
