"""Cells have readable numbers, sort by value, and the worst values of a column are marked."""

import math

import pytest

from taqmlx.report.tables import (
    Cell,
    Column,
    format_fixed,
    format_significant,
    mark_worst,
    show_count,
    show_decibels,
    show_number,
)


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(0.0465, 3, "0.046"), (-0.4391, 3, "−0.439"), (-0.0001, 3, "0.000"), (12345.6, 1, "12,345.6"), (-12, 0, "−12")],
)
def test_fixed_decimals_have_a_true_minus_sign_and_no_negative_zero(value, digits, shown):
    assert format_fixed(value, digits) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1.23456, "1.23"),
        (0.5, "0.500"),
        (64.0, "64.0"),
        (123.4, "123"),
        (4.2e-5, "4.20e−05"),
        (-3e6, "−3.00e+06"),
    ],
)
def test_magnitudes_have_three_significant_digits(value, shown):
    assert format_significant(value) == shown


def test_an_unknown_value_is_a_dash():
    assert show_number(None) == show_count(None) == Cell("–")


def test_an_infinite_ratio_is_exact_and_sorts_as_infinite():
    assert show_decibels(math.inf) == Cell("exact", math.inf)


def mark_column(values, worst):
    rows = [[Cell("row"), Cell(str(value), value)] for value in values]
    return [row[1].text for row in mark_worst([Column("name"), Column("c", worst=worst)], rows) if row[1].mark]


def test_the_worst_tenth_is_marked_at_either_end():
    assert mark_column(range(20), "low") == ["0", "1"]
    assert mark_column(range(20), "high") == ["18", "19"]
    assert mark_column(range(20), "") == []


def test_few_or_equal_values_are_not_marked():
    assert mark_column([1, 2, 3, 4], "low") == []
    assert mark_column([5.0] * 20, "low") == []
    assert mark_column([None, math.inf, 3, 2, 1, 4], "low") == ["1"]
