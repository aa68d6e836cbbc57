"""Folds are read as written, and a changed file is rejected."""

import numpy as np
import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.folds_file import Fold, holds_folds, read_folds, write_folds

INPUTS = {"model": {"transformer.safetensors": "0" * 64}}


def write(path, *scales):
    vector = np.array(scales, np.float32)
    fold = Fold("mm_00.image.mlp.fc1", "scale", vector, 2 * vector, np.ones_like(vector), (0.5, 0.25))
    write_folds(path, [fold] if scales else [], {"stage": "fold_model"}, INPUTS)
    return read_folds(path)


def test_folds_are_read_as_written(tmp_path):
    found = write(tmp_path / "folds.safetensors", 1, 2)
    (fold,) = found.folds
    assert (fold.site, fold.kind, fold.errors) == ("mm_00.image.mlp.fc1", "scale", (0.5, 0.25))
    np.testing.assert_array_equal(fold.vector, [1, 2])
    np.testing.assert_array_equal(fold.before, [2, 4])
    assert found.model == INPUTS["model"]


def test_other_vectors_have_another_fingerprint(tmp_path):
    path = tmp_path / "folds.safetensors"
    prints = [write(path, 1, 2).fingerprint, write(path, 1, 4).fingerprint, write(path).fingerprint]
    assert len(set(prints)) == 3


def test_a_file_without_folds_is_read(tmp_path):
    assert write(tmp_path / "folds.safetensors").folds == []


def test_a_changed_file_is_rejected(tmp_path):
    path = tmp_path / "folds.safetensors"
    write(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-4] + np.float32(9).tobytes())
    with pytest.raises(UserError, match="delete it and run again"):
        read_folds(path)


def test_a_file_holds_the_folds_of_its_own_parameters_and_inputs_alone(tmp_path):
    path = tmp_path / "folds.safetensors"
    parameters = {"stage": "fold_model"}
    assert not holds_folds(path, parameters, INPUTS)
    write(path, 1, 2)
    assert holds_folds(path, parameters, INPUTS)
    with pytest.raises(UserError, match="made with other parameters"):
        holds_folds(path, parameters | {"seed": 1}, INPUTS)
    with pytest.raises(UserError, match="made with other inputs"):
        holds_folds(path, parameters, {"model": {}})
