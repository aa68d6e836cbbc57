"""The checkpoint of learning is intact and of the same run, or it is rejected."""

import numpy as np
import pytest

from taqmlx.store import files
from taqmlx.store.errors import UserError
from taqmlx.store.learning_state import read_learning, write_learning

NUMBERS = {"phase": 1, "iteration": 400, "losses": [0.1 + 0.2, 1e-17, 3.0]}
ARRAYS = {
    "alpha": np.linspace(-3, 3, 11, dtype=np.float32),
    "log_steps mm_00.image.mlp.fc2": np.array([-3.5], np.float32),
    "adam rounding step": np.array(7, np.uint64),
    "adam steps learning_rate": np.array(1e-3, np.float32),
    "empty": np.zeros(0, np.float32),
}


@pytest.fixture
def path(tmp_path):
    write_learning(tmp_path / "learning.safetensors", "abc", NUMBERS, ARRAYS)
    return tmp_path / "learning.safetensors"


def test_a_state_is_read_as_written_bit_for_bit(path):
    numbers, arrays = read_learning(path, "abc")
    assert numbers == NUMBERS
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], np.atleast_1d(array))  # a scalar comes back as an array of one
        assert arrays[name].dtype == array.dtype


def test_without_a_checkpoint_nothing_is_read(tmp_path):
    assert read_learning(tmp_path / "learning.safetensors", "abc") is None


def test_a_checkpoint_of_another_run_is_rejected(path):
    with pytest.raises(UserError, match=rf"{path.name} was made with other parameters or inputs"):
        read_learning(path, "abd")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_damaged_checkpoint_is_rejected(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"{path.name} is damaged"):
        read_learning(path, "abc")


def test_a_checkpoint_replaces_the_previous_one(path):
    write_learning(path, "abc", NUMBERS | {"iteration": 600}, ARRAYS)
    assert read_learning(path, "abc")[0]["iteration"] == 600
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_previous_checkpoint(path, monkeypatch):
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_learning(path, "abc", NUMBERS | {"iteration": 600}, ARRAYS)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
