"""The calibration set is read completely or by rows, chunk by chunk."""

import numpy as np
import pytest

from taqmlx.store import calibration
from taqmlx.store.errors import UserError
from tools.small_results.study import write_calibration


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A set of 18 points in chunks of 4, and its arrays."""
    monkeypatch.setattr(calibration, "CHUNK_BYTES", 4 * 2 * 8 * 8 * 16)
    arrays = write_calibration(tmp_path / "calibration.zarr")
    return calibration.open_calibration(tmp_path / "calibration.zarr"), arrays


def test_an_array_is_read_from_all_its_chunks(written):
    opened, arrays = written
    assert opened.specs["xs"].file_count[0] == 5
    for name, array in arrays.items():
        np.testing.assert_array_equal(opened.read(name), array)


@pytest.mark.parametrize("indices", [[17, 0, 4, 3, 12], [], [5, 5], list(range(18))])
@pytest.mark.parametrize("name", ["xs", "steps"])
def test_rows_are_in_the_requested_order(written, name, indices):
    opened, arrays = written
    indices = np.array(indices, np.int64)
    np.testing.assert_array_equal(opened.read_rows(name, indices), arrays[name][indices])


def test_a_damaged_chunk_is_named(written):
    opened, _ = written
    (opened.path / "xs/c.2.0.0.0").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"xs/c\.2\.0\.0\.0 is damaged"):
        opened.read_rows("xs", np.array([0]))


def test_the_conditions_of_some_prompts_are_read_without_those_of_others(written):
    opened, arrays = written
    (opened.path / "cs/c.0.0.0.0").unlink()
    read = opened.bind_conditions()
    found = read(np.array([2, 1, 2]))
    for values, name in zip(found, calibration.PROMPT_ARRAYS, strict=True):
        np.testing.assert_array_equal(values, arrays[name][[2, 1, 2]])
    with pytest.raises(UserError, match=r"cs/c\.0\.0\.0\.0 is missing"):
        read(np.array([0]))
