"""Untrusted files and JSON: what is accepted, and what is rejected in a few words."""

import json
import os

import pytest

from taqmlx.planning.plain_files import DEEPEST_JSON, open_plain, parse_json, read_plain, read_plain_json


def test_a_plain_file_is_read_completely(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert read_plain(tmp_path / "x") == read_plain(tmp_path / "link", 3) == b"abc"


def test_a_file_larger_than_allowed_is_not_read(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="it has 1099511627776 bytes, and at most 67108864 are read"):
        read_plain_json(tmp_path / "x")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_a_folder_and_a_device_are_rejected_at_once(make, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(OSError, match="it is not a regular file"):
        open_plain(tmp_path / "x")


@pytest.mark.parametrize(
    "value", [None, 1, -(2**63), 2**63 - 1, 0.5, "été", [], {"a": [1, {"b": "c"}]}, [[1.0] * 9] * 9]
)
def test_values_are_read_as_written(value):
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value).encode()) == value


def nest(levels):
    return "[" * levels + "]" * levels


def test_the_depth_of_nesting_is_bounded():
    parse_json(nest(DEEPEST_JSON))
    for levels in (DEEPEST_JSON + 2, 900, 100_000):
        with pytest.raises(ValueError, match="nested more than"):
            parse_json(nest(levels))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff", "utf-8"),
        ("{", "Expecting"),
        ("NaN", "JSON compliant"),
        ("[1e400]", "JSON compliant"),
        ('{"a": 1, "a": 2}', "it has a duplicate key"),
        ("9223372036854775808", "more than 64 bits"),
        ("1" * 5000, "more than 64 bits"),
        ('"\\ud800"', "lone surrogate"),
        ('{"\\udfff": 1}', "lone surrogate"),
    ],
)
def test_content_that_no_writer_of_the_project_makes_is_rejected(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)
