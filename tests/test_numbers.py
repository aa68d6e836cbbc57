"""The numbers of the documents are those of docs/numbers.json."""

from pathlib import Path

import pytest

from taqmlx.report.document_tables import TABLES
from taqmlx.report.documents import TABLE, fill
from taqmlx.store.files import encode_json, read_plain_json

NUMBERS = Path("docs/numbers.json")
DOCUMENTS = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_filling_a_document_changes_nothing(path):
    text = path.read_text(encoding="utf-8")
    assert fill(text, read_plain_json(NUMBERS)) == text, "run: python -m workflow_scripts.tools.fill_numbers"


def test_every_table_stands_in_one_document():
    found = [name for path in DOCUMENTS for name, _ in TABLE.findall(path.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(TABLES)


def test_the_numbers_are_as_they_are_written_and_say_what_they_were_measured_on():
    numbers = read_plain_json(NUMBERS)
    assert NUMBERS.read_text(encoding="utf-8") == encode_json(numbers)
    assert all("measured" in group for group in numbers.values())
