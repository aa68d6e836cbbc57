"""The report lists the inputs that are hard to quantize, hardest first."""

from argparse import Namespace

import pytest

from taqmlx.store.files import read_json
from workflow_scripts.activations import report_ranges


@pytest.fixture(scope="module")
def text(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "ranges.md"
    report_ranges.main(Namespace(statistics=finished.statistics, out=out))
    return out.read_text()


def read_table(text, heading):
    """The rows of the table under a heading, as lists of cells."""
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"][
        2:
    ]


def test_every_input_has_a_row_and_the_widest_spread_comes_first(text, finished):
    rows = read_table(text, "All inputs")
    assert {row[0] for row in rows} == set(read_json(finished.statistics)["inputs"])
    spreads = [float(row[-1]) for row in rows]
    assert spreads == sorted(spreads, reverse=True)


def test_post_gelu_inputs_have_their_own_table(text):
    rows = read_table(text, "After GELU")
    assert len(rows) == 9
    assert all(float(row[1]) < 0 < float(row[2]) for row in rows)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1.23456, "1.23"), (123.4, "123"), (4.2e-5, "4.20e-05"), (3e6, "3.00e+06"), (-0.17, "-0.17")],
)
def test_numbers_have_three_significant_digits(value, shown):
    assert report_ranges.format_number(value) == shown
