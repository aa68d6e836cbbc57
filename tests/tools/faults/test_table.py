"""The reliability page agrees with its data file."""

import csv
from pathlib import Path

from tools.faults.__main__ import CAMPAIGNS, DOCUMENT
from tools.faults.outcomes import Outcome
from tools.faults.table import COLUMNS, format_page, list_rows, write_document

OUTCOMES = [
    Outcome("kills", "SIGKILL", "capture_blocks", True),
    Outcome("kills", "SIGKILL", "capture_blocks", False, "other bytes"),
    Outcome("nans", "NaN", "weights", True),
]


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_and_its_data_file_have_the_counts(tmp_path):
    write_document(tmp_path / "page.md", OUTCOMES)
    text, rows = (tmp_path / "page.md").read_text(encoding="utf-8"), read_rows(tmp_path / "page.csv")
    assert "Of 3 faults, 2 were survived and 1 lost.\n\n- SIGKILL, `capture_blocks`: other bytes\n\n|" in text
    assert "| Kills | SIGKILL | 1 | 2 | 1 | 1 |\n| Non-finite values | NaN | 1 | 1 | 1 | 0 |\n" in text
    assert [tuple(row.values()) for row in rows] == [
        ("kills", "SIGKILL", "capture_blocks", "2", "1", "1"),
        ("nans", "NaN", "weights", "1", "1", "0"),
    ]


def test_the_page_of_the_repository_is_that_of_its_data_file():
    rows = read_rows(DOCUMENT.with_suffix(".csv"))
    assert tuple(rows[0]) == COLUMNS
    assert {row["campaign"] for row in rows} <= set(CAMPAIGNS)
    outcomes = [
        Outcome(row["campaign"], row["fault"], row["place"], True) for row in rows for _ in range(int(row["tried"]))
    ]
    assert all(row["lost"] == "0" for row in rows)
    assert DOCUMENT.read_text(encoding="utf-8") == format_page(outcomes)
    assert [tuple(map(str, row)) for row in list_rows(outcomes)] == [tuple(row.values()) for row in rows]


def test_the_page_names_every_campaign_within_one_page():
    text = Path(DOCUMENT).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    described = text.partition("## Campaigns")[2].partition("## Results")[0]
    listed = {line.split(" | ")[0] for line in text.partition("## Results")[2].splitlines() if line.startswith("| ")}
    assert all(f"{campaign} |" in described for campaign in listed - {"| campaign"})
