"""The numbers in the documents are those of docs/numbers.json."""

import re
from pathlib import Path

import pytest

from taqmlx.report.document_tables import TABLES
from taqmlx.report.documents import NUMBER, TABLE, fill
from taqmlx.store.files import encode_json, read_plain_json

NUMBERS = Path("docs/numbers.json")
PAGES = sorted(Path("docs").glob("*.md"))
DOCUMENTS = [Path("README.md"), *PAGES]
FIGURE = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)? ?(?:dB|%|(?:s|ms|min|minutes?|hours?|core-hours|MB/s|MB|GB)\b)")
# Not typed text: tables filled from the numbers, code, and marked numbers.
NO_TEXT = (
    *(TABLE, re.compile(r"^```.*?^```", re.M | re.S), re.compile(r"^ {4}.*$", re.M), re.compile(r"`[^`]*`")),
    re.compile(rf"{NUMBER.pattern}(?: (?:to|and) {NUMBER.pattern})?"),
)
# Figures with a unit that are defined, not measured, by their kind.
DEFINED = {
    "an interval, a percentile, a share or a threshold": ("95 %", "5 %", "99.9 %", "5 dB", "40 dB"),
    "a published file": ("10 GB", "12 MB", "16 GB", "28 GB", "34 GB"),
    "the weights of Stable Diffusion 3 Medium in fp32 and fp16, and of its blocks": ("8.3 GB", "4.2 GB", "4.0 GB"),
    "the encoding of a prompt: 2 x 589 x 4096 values in fp32": ("19 MB",),
    "a setting": ("2 GB", "10 MB", "1 MB", "6 hours", "20 GB"),
}
# In one document only: sizes that follow from shapes, statements of others, and the machine.
DEFINED_IN = {
    "memory.md": {"4.3 GB", "12 GB"},
    "migration.md": {
        *("1.2 GB", "3.3 GB", "18 GB", "6 MB", "200 MB", "40 s"),
        *("13 GB", "15.5 GB", "193 MB", "210 MB", "419 MB"),
    },
    "how_it_works.md": {"50 GB"},
    "object_storage.md": {"1.8 MB", "128 MB"},
    "performance.md": {"24 GB"},
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_filling_a_document_changes_nothing(path):
    text = path.read_text(encoding="utf-8")
    assert fill(text, read_plain_json(NUMBERS)) == text, "run: python -m workflow_scripts.tools.fill_numbers"


def test_every_table_is_in_one_document():
    found = [name for path in DOCUMENTS for name, _ in TABLE.findall(path.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(TABLES)


def test_the_numbers_are_sorted_and_every_group_says_how_it_was_measured():
    numbers = read_plain_json(NUMBERS)
    assert NUMBERS.read_text(encoding="utf-8") == encode_json(numbers)
    assert all("measured" in group for group in numbers.values())


def list_figures(text):
    """The line and the text of each figure with a unit that is typed, not filled in."""
    for pattern in NO_TEXT:
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return [(number, figure) for number, line in enumerate(text.split("\n"), 1) for figure in FIGURE.findall(line)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_a_figure_with_a_unit_is_filled_in_or_defined(path):
    defined = {figure for figures in DEFINED.values() for figure in figures} | DEFINED_IN.get(path.name, set())
    typed = [(line, figure) for line, figure in list_figures(path.read_text(encoding="utf-8")) if figure not in defined]
    assert not typed, f"{path}: put these into {NUMBERS} and mark them, or name them above: {typed}"


def test_typed_figures_are_found():
    text = "Gains 3.1 dB, <!-- n: a.b -->2 dB, <!-- n: a.c -->1 to <!-- n: a.d -->2 s.\n`5 MB`\n\n    6 MB\n| 70 MB |"
    assert list_figures(text) == [(1, "3.1 dB"), (5, "70 MB")]


def test_every_defined_figure_is_used():
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    typed = {figure for _, figure in list_figures(text)}
    assert {figure for figures in DEFINED.values() for figure in figures} <= typed
    for name, figures in DEFINED_IN.items():
        assert figures <= {figure for _, figure in list_figures((Path("docs") / name).read_text(encoding="utf-8"))}
