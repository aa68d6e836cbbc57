"""Changed weights are detected cheaply, wherever they are stored."""

import pytest

from taqmlx.planning.weight_identity import END, find_other_weights, hash_ends
from taqmlx.store.files import write_json

CONTENT = bytes(range(256)) * (END // 256) * 3


@pytest.fixture
def record(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.safetensors").write_bytes(CONTENT)
    path = tmp_path / "results" / "weights.json"
    write_json(path, {"glimpses": {"a.safetensors": hash_ends(tmp_path / "weights" / "a.safetensors")}})
    return path


def test_equal_weights_elsewhere_are_accepted(record, tmp_path):
    (tmp_path / "weights").rename(tmp_path / "moved")
    assert list(find_other_weights(record, str(tmp_path / "moved"))) == []
    assert list(find_other_weights(record, str(tmp_path / "moved" / "a.safetensors"))) == []


@pytest.mark.parametrize("change", [lambda c: c + b"x", lambda c: b"x" + c[1:], lambda c: c[:-1] + b"x"])
@pytest.mark.parametrize("name", ["weights", "weights/a.safetensors"])
def test_other_weights_are_named(record, tmp_path, change, name):
    path = tmp_path / "weights" / "a.safetensors"
    path.write_bytes(change(CONTENT))
    (line,) = find_other_weights(record, str(tmp_path / name))
    assert line == f"{path} is not the file that {tmp_path / 'results'} was made with"


def test_other_shards_are_named(record, tmp_path):
    folder = tmp_path / "weights"
    (folder / "mine.safetensors.index.json").write_text("{}")
    parts = {name: folder / name for name in ("a.safetensors", "mine.safetensors.index.json")}
    write_json(record, {"glimpses": {name: hash_ends(path) for name, path in parts.items()}})
    assert list(find_other_weights(record, str(parts["mine.safetensors.index.json"]))) == []
    parts["a.safetensors"].write_bytes(CONTENT[1:])
    (line,) = find_other_weights(record, str(parts["mine.safetensors.index.json"]))
    assert line.startswith(f"{parts['a.safetensors']} is not the file that")


def test_a_small_file_is_read_completely(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"ab")
    other.write_bytes(b"ac")
    assert hash_ends(one) != hash_ends(other)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_without_a_record_or_with_a_repository_nothing_is_checked(tmp_path, record, content):
    assert list(find_other_weights(tmp_path / "absent.json", str(tmp_path))) == []
    assert list(find_other_weights(record, "somebody/weights")) == []
    record.write_text(content)
    assert list(find_other_weights(record, str(tmp_path / "weights"))) == []
