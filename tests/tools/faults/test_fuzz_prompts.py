"""Any prompt file is read, or rejected in one line, without waiting and in bounded memory."""

import csv
import io
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taqmlx.planning import prompts
from tests.tools.faults.test_fuzz_configurations import QUIETLY
from tools.faults.hostile import limit_time

SUFFIXES = (".txt", ".csv", ".CSV", ".tsv", ".json", ".jsonl")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252")
pieces = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["\r\n", "\r", "\n", "\0", "\ufeff", "\u2028", '"', ",", "a red circle", "$(touch pwned)", "{x}", "\t"]
    ),
)


def read(path: Path) -> list[str] | None:
    """The prompts, or None if they are rejected as they should be."""
    try:
        with limit_time(60):
            found = prompts.read_prompts(path)
    except ValueError as error:
        refused = error
    else:
        assert all(prompt and prompt == prompt.strip() and "\n" not in prompt for prompt in found)
        assert found
        return found
    assert type(refused) is ValueError
    assert str(refused).startswith("prompts: ")
    assert len(str(refused).splitlines()) == 1
    return None


@settings(max_examples=200, **QUIETLY)
@given(
    text=st.lists(pieces, max_size=8).map("".join),
    encoding=st.sampled_from(ENCODINGS),
    suffix=st.sampled_from(SUFFIXES),
)
def test_any_text_in_any_encoding_is_read_or_rejected(tmp_path_factory, text, encoding, suffix):
    path = tmp_path_factory.getbasetemp() / f"prompts{suffix}"
    path.write_bytes(text.encode(encoding, "replace"))
    read(path)


@settings(max_examples=100, **QUIETLY)
@given(content=st.binary(max_size=200), suffix=st.sampled_from(SUFFIXES))
def test_any_bytes_are_read_or_rejected(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"prompts{suffix}"
    path.write_bytes(content)
    read(path)


@settings(max_examples=100, **QUIETLY)
@given(
    header=st.lists(st.sampled_from(["prompt", "Prompt ", "caption", "id", "", "prompt", '"']), max_size=4),
    rows=st.lists(st.lists(pieces, max_size=5), max_size=4),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_any_table_is_read_or_rejected(tmp_path_factory, header, rows, suffix):
    path = tmp_path_factory.getbasetemp() / f"prompts{suffix}"
    table = io.StringIO(newline="")
    csv.writer(table, delimiter=DELIMITERS[suffix]).writerows([header, *rows])
    path.write_bytes(table.getvalue().encode("utf-8", "replace"))
    read(path)


@settings(max_examples=200, **QUIETLY)
@given(
    rows=st.lists(st.tuples(pieces, pieces).filter(lambda row: row[1].strip()), min_size=1, max_size=6),
    dialect=st.sampled_from(["excel", "unix"]),
)
def test_every_prompt_of_a_csv_table_is_read_or_the_table_is_rejected(tmp_path_factory, rows, dialect):
    path = tmp_path_factory.getbasetemp() / "prompts.csv"
    table = io.StringIO(newline="")
    csv.writer(table, dialect).writerows([["id", "prompt"], *rows])
    path.write_bytes(table.getvalue().encode("utf-8", "replace"))
    found = read(path)
    assert found in (None, [" ".join(prompt.split()) for _, prompt in rows])


@settings(max_examples=200, **QUIETLY)
@given(
    value=st.recursive(
        pieces | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(pieces | st.just("prompt"), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_json_is_read_or_rejected(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "prompts.json"
    path.write_text(json.dumps(value))
    read(path)


@pytest.mark.parametrize(
    "make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
)
@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.json"])
def test_a_special_file_is_rejected_at_once(make, name, tmp_path):
    make(tmp_path / name)
    assert read(tmp_path / name) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\0b\n", "control characters"),
        (b"one\rtwo\n", "control characters"),
        ("a red circle\n".encode("utf-16-le"), "control characters"),
        (b"\x1b]0;x\x07\n", "control characters"),
        (b"x" * 10_001, "more than 10000 characters"),
        (b"red " * 250_000, "more than 10000 characters"),
    ],
)
def test_an_invalid_prompt_is_rejected_by_name(content, words, tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a red circle\n" + content)
    with pytest.raises(ValueError, match=words):
        prompts.read_prompts(tmp_path / "x.txt")


def test_a_million_prompts_are_read_in_memory_bounded_by_the_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a red circle left of a blue square\n" * 1_000_000)
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1_000_000
    assert peak < 12 * path.stat().st_size


def test_a_prompt_file_that_is_too_large_is_rejected_unread(tmp_path):
    with (tmp_path / "x.txt").open("wb") as file:
        file.truncate(1 << 40)  # holes: it takes no room on the disk
    tracemalloc.start()
    assert read(tmp_path / "x.txt") is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
