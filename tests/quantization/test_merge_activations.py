"""Merged shards equal one shard of all points."""

import json
from argparse import Namespace

import numpy as np
import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.statistics_file import read_statistics_arrays
from tools.small_results.study import SIGMAS, STEPS, Study
from workflow_scripts.activations import merge_activations


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """The same points in one part."""
    study = Study(tmp_path_factory.mktemp("whole"), statistics_shards=1)
    study.calibration.symlink_to(finished.calibration)
    study.collect(study.list_shards()[0])
    study.merge()
    return study


def read(study):
    statistics = read_json(study.statistics)
    return statistics, read_statistics_arrays(study.statistics, statistics)


def test_channel_statistics_equal_those_of_one_shard(finished, whole):
    (_, merged), (_, alone) = read(finished), read(whole)
    assert merged.keys() == alone.keys()
    for key, array in merged.items():
        np.testing.assert_allclose(array, alone[key], atol=1e-5 * measure_absmax(alone, key), err_msg=key)


def measure_absmax(arrays, key):
    """The largest number there is about the input that `key` is of: its deviation alone can be rounding and no more."""
    name = key.rpartition("/")[0]
    return max(np.abs(array).max() for other, array in arrays.items() if other.rpartition("/")[0] == name)


def test_quantiles_are_close_to_those_of_one_shard(finished, whole):
    (merged, _), (alone, _) = read(finished), read(whole)
    for name, described in merged["inputs"].items():
        expected, found = alone["inputs"][name]["per_step"], described["per_step"]
        for key in ("p0.1", "p1", "p99", "p99.9"):
            np.testing.assert_allclose(found[key], expected[key], atol=0.05 * max(expected["absmax"]))


def test_merging_again_gives_the_same_bytes(finished):
    before = finished.statistics.read_bytes()
    finished.merge()
    assert finished.statistics.read_bytes() == before


def test_the_order_of_the_shards_does_not_matter(finished, tmp_path):
    out = tmp_path / finished.statistics.name
    merge_activations.main(Namespace(shards=finished.list_shards()[::-1], out=out))
    assert out.read_bytes() == finished.statistics.read_bytes()


def test_the_file_lists_steps_sigmas_and_layers(finished):
    statistics, arrays = read(finished)
    assert statistics["steps"] == STEPS
    assert statistics["sigmas"] == SIGMAS
    qkv = statistics["inputs"]["mm_00.image.attn.qkv"]
    assert qkv["layers"] == [f"mm_00.image.attn.{part}_proj" for part in "qkv"]
    assert qkv["rows"] == [2 * 6 * 16] * 3
    for name, described in statistics["inputs"].items():
        assert set(described["arrays"]) <= set(arrays)
        assert ("shifted_absmax" in described["per_step"]) == name.endswith(".mlp.fc2")


def test_the_shift_narrows_post_gelu_inputs(finished):
    statistics, _ = read(finished)
    numbers = statistics["inputs"]["mm_02.image.mlp.fc2"]["per_step"]
    assert np.mean(numbers["shifted_absmax"]) < np.mean(numbers["absmax"])
    assert 0.3 < np.mean(numbers["negative_share"]) < 1


def test_no_absolute_path_is_written(finished):
    assert str(finished.folder) not in finished.statistics.read_text()


def test_a_changed_shard_is_rejected(study):
    for part in study.list_shards():
        study.collect(part)
    part = study.list_shards()[1]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"01\.safetensors is missing or does not match its seal"):
        study.merge()


def test_shards_with_different_origins_are_rejected(study):
    for part in study.list_shards():
        study.collect(part)
    study.configure(statistics_shards=2, statistics_points=3)
    study.collect(study.list_shards()[1])
    with pytest.raises(UserError, match=r"01.safetensors does not belong with .*00.safetensors \(statistics_points"):
        study.merge()


def test_a_missing_shard_is_rejected(study):
    study.collect(study.list_shards()[0])
    study.list_shards = lambda: [study.folder / "activations" / "shards" / "00.safetensors"]
    with pytest.raises(UserError, match="shards 00, 01 are needed and 00 are named"):
        study.merge()


def test_json_is_plain(finished):
    text = finished.statistics.read_text()
    assert "NaN" not in text
    assert json.loads(text)["format"] == "activation-statistics"
