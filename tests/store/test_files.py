"""Files are whole or absent, and equal values give equal bytes."""

import pytest

from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import encode_json, hash_file, read_json, write_atomically, write_json


def test_json_is_sorted_and_keeps_letters():
    assert encode_json({"b": 1, "a": "été"}) == '{\n "a": "été",\n "b": 1\n}\n'


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_json({"x": float("nan")})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, 1)

    def fail(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert read_json(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(("content", "words"), [(None, "is missing"), ("{", "is damaged")])
def test_an_unreadable_file_is_named(tmp_path, content, words):
    path = tmp_path / "x.json"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=f"x.json {words}"):
        read_json(path)


def test_hashes_are_sha256(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
