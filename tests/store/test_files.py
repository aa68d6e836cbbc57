"""Files are complete or absent, and equal values give equal bytes."""

import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import encode_json, find_named, hash_file, name_below, read_json, write_atomically, write_json


def test_json_is_sorted_and_keeps_unicode():
    assert encode_json({"b": 1, "a": "été"}) == '{\n "a": "été",\n "b": 1\n}\n'


def test_json_rejects_nan():
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_json({"x": float("nan")})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"x": 1})

    def fail(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert read_json(path) == {"x": 1}
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


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link", "circle", "a\0b", "x" * 5000])
def test_a_named_file_must_be_beside_or_below_the_file_that_names_it(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    with pytest.raises(UserError, match="which is outside"):
        find_named(folder / "config.json", name)
    assert find_named(folder / "config.json", "a/b") == folder / "a" / "b"


def test_a_folder_may_be_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to("there")
    assert find_named(tmp_path / "here" / "config.json", "x") == tmp_path / "here" / "x"


def test_a_name_is_written_only_if_it_can_be_resolved(tmp_path):
    assert name_below(tmp_path / "a" / "b", tmp_path) == "a/b"
    assert name_below(tmp_path / "b", tmp_path) == "b"
    with pytest.raises(UserError, match=r"b is not below .*/a; write the file that refers to it"):
        name_below(tmp_path / "b", tmp_path / "a")


def test_a_changed_value_or_another_kind_is_rejected(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"stage": "score", "seed": 1})
    assert read_json(path, stage="score") == {"stage": "score", "seed": 1}
    with pytest.raises(UserError, match=r"x\.json belongs to the stage score, not measure_size; delete it"):
        read_json(path, stage="measure_size")
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 3'))
    with pytest.raises(UserError, match=r"x\.json is damaged or was changed: its checksum does not match"):
        read_json(path)


def test_content_can_be_changed_and_written_again(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"seed": 1})
    write_json(path, read_json(path) | {"seed": 2})
    assert read_json(path) == {"seed": 2}


def test_a_non_finite_number_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match=r"x\.json: layers\.fc2\.steps\.1 is not a finite number"):
        write_json(tmp_path / "x.json", {"layers": {"fc2": {"steps": [1.0, float("nan")]}}})
    assert not (tmp_path / "x.json").exists()


def test_a_system_error_names_the_final_file(tmp_path):
    (tmp_path / "folder").write_text("no folder")
    with pytest.raises(OSError, match=r"folder/x\.json"):
        write_json(tmp_path / "folder" / "x.json", {})
