"""A sensitivity file is read as written, or rejected by name."""

import numpy as np
import pytest

from taqmlx.planning import plan
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.sensitivity_file import (
    read_sensitivities,
    read_sensitivity,
    read_sensitivity_arrays,
    write_sensitivity,
)
from tools.faults.damage import edit

BLOCKS = plan.list_block_names("embedded")
ARRAYS = {"mm_00.image.mlp.fc2/before": np.arange(4), "mm_00.image.mlp.fc2/edges": np.linspace(-1, 1, 5)}


def describe(block: str, **changes) -> dict:
    origin = {"model": {"transformer": "00"}, "block_inputs": ["11", "22"]}
    return {"model": "embedded", "block": block, "gains": {"image": 0.5}, "origin": origin} | changes


@pytest.fixture
def folder(tmp_path):
    for block in BLOCKS:
        write_sensitivity(tmp_path / f"{block}.json", describe(block), ARRAYS)
    return tmp_path


def list_paths(folder):
    return sorted(folder.glob("*.json"))


def test_content_and_arrays_are_read_as_written(folder):
    path = folder / "mm_00.json"
    content = read_sensitivity(path)
    assert describe("mm_00").items() <= content.items()
    assert (content["format"], content["version"]) == ("sensitivity", 1)
    arrays = read_sensitivity_arrays(path, content)
    assert arrays.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], values)


def test_equal_content_gives_equal_bytes(folder, tmp_path):
    again = tmp_path / "again" / "mm_00.json"
    write_sensitivity(again, describe("mm_00"), ARRAYS)
    for suffix in (".json", ".safetensors"):
        assert again.with_suffix(suffix).read_bytes() == (folder / f"mm_00{suffix}").read_bytes()


def test_a_changed_number_is_rejected(folder):
    path = folder / "mm_00.json"
    edit(path, lambda content: content.update(gains={"image": 0.6}))
    with pytest.raises(UserError, match=r"mm_00\.json is damaged or was changed.*delete it"):
        read_sensitivity(path)


def test_a_truncated_file_is_rejected(folder):
    path = folder / "mm_00.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"mm_00\.json is damaged"):
        read_sensitivity(path)


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "statistics"}])
def test_another_format_is_rejected(folder, change):
    path = folder / "mm_00.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(UserError, match=r"mm_00\.json is not a sensitivity file of version 1"):
        read_sensitivity(path)


def test_a_foreign_file_is_rejected(folder):
    write_json(folder / "mm_00.json", {"block": "mm_00"})
    with pytest.raises(UserError, match="is not a sensitivity file"):
        read_sensitivity(folder / "mm_00.json")


def test_a_file_without_a_block_is_rejected(folder):
    content = read_json(folder / "mm_00.json")
    write_json(folder / "mm_00.json", {key: content[key] for key in content if key != "block"})
    with pytest.raises(UserError, match=r"mm_00\.json belongs to block None; delete it"):
        read_sensitivity(folder / "mm_00.json")


def test_the_file_of_another_block_is_rejected(folder):
    (folder / "mm_00.json").rename(folder / "mm_01.json")
    with pytest.raises(UserError, match=r"mm_01\.json belongs to block mm_00; delete it"):
        read_sensitivity(folder / "mm_01.json")


def test_missing_or_changed_arrays_are_rejected(folder):
    path = folder / "mm_00.json"
    arrays = path.with_suffix(".safetensors")
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(data)
    with pytest.raises(UserError, match=r"mm_00\.safetensors is missing or not what"):
        read_sensitivity_arrays(path, read_sensitivity(path))
    arrays.unlink()
    with pytest.raises(UserError, match=r"mm_00\.safetensors is missing or not what"):
        read_sensitivity_arrays(path, read_sensitivity(path))


def test_all_blocks_are_read_in_order(folder):
    assert list(read_sensitivities(list_paths(folder)[::-1], "embedded")) == BLOCKS


def test_a_missing_block_is_named(folder):
    with pytest.raises(UserError, match="the sensitivity of mm_01, mm_04 is missing"):
        read_sensitivities([folder / f"{block}.json" for block in ("mm_00", "mm_02", "mm_03")], "embedded")


def test_a_second_file_of_a_block_is_rejected(folder):
    with pytest.raises(UserError, match="is a second file of mm_00"):
        read_sensitivities([folder / "mm_00.json", *list_paths(folder)], "embedded")


def test_another_model_is_rejected(folder):
    write_sensitivity(folder / "mm_02.json", describe("mm_02", model="other"), {})
    with pytest.raises(UserError, match=r"mm_02\.json belongs to the model other, not embedded"):
        read_sensitivities(list_paths(folder), "embedded")


def test_blocks_of_different_rows_are_rejected(folder):
    origin = {"model": {"transformer": "00"}, "block_inputs": ["11", "33"]}
    write_sensitivity(folder / "mm_02.json", describe("mm_02", origin=origin), {})
    with pytest.raises(UserError, match=r"mm_02\.json .* made from different files \(block_inputs"):
        read_sensitivities(list_paths(folder), "embedded")
