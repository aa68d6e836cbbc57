"""The calibration set equals that of a slow NumPy version, and equal shards give equal bytes."""

import itertools
import shutil

import numpy as np
import pytest
import zarr

from taqmlx.planning import plan
from taqmlx.store.calibration import open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.gather import Selection, scatter_states
from taqmlx.store.trajectories import Trajectory
from tools.small_results.shards import (
    CONFIG,
    PROMPTS,
    SHARDS,
    build_finished,
    copy_finished,
    hash_tree,
    run_entry,
    write_parameters,
)


def gather(tmp_path, find_store=lambda results: results / "trajectories.zarr"):
    folder = copy_finished(tmp_path)
    run_entry(folder, "gather_calibration", trajectories=find_store(folder))
    return folder


def reference():
    """Every point, one by one: trajectory after trajectory, step after step, then shuffled."""
    groups = [zarr.open_group(build_finished() / "trajectories.zarr" / shard, mode="r") for shard in SHARDS]
    rows = {int(j): (group, row) for group in groups for row, j in enumerate(group["trajectories"][:])}
    points = []
    for j, step in itertools.product(range(7), (0, 2, 4)):
        group, row = rows[j]
        points.append((group["xs"][row][step], group["ts"][step], group["sigmas"][step], step, j % 3))
    return [points[i] for i in np.random.default_rng(CONFIG["seed"]).permutation(len(points))]


def test_points_are_selected_and_shuffled_together(tmp_path, find_store):
    found = zarr.open_group(gather(tmp_path, find_store) / "calibration.zarr", mode="r")
    wanted = [np.array(values) for values in zip(*reference(), strict=True)]
    for name, values in zip(("xs", "ts", "sigmas", "steps", "prompt_indices"), wanted, strict=True):
        assert found[name].dtype == {"ts": "f4", "sigmas": "f4", "xs": "f2"}.get(name, "i8")
        assert np.array_equal(found[name][:], values), name


def test_the_set_has_prompts_encodings_and_guidance(tmp_path):
    folder = gather(tmp_path)
    group = zarr.open_group(folder / "calibration.zarr", mode="r")
    assert group.attrs["prompts"] == PROMPTS
    assert group.attrs["cfg_scale"] == 1.5
    assert group["cs"].shape == (3, 2, 20, 128)
    np.testing.assert_allclose(group["cs"][0], group["cs"][2], atol=1e-5)
    assert np.abs(group["cs"][0] - group["cs"][1]).max() > 0.1
    seal = open_calibration(folder / "calibration.zarr").seal
    shards = {s: open_shard_seal(folder, s)["fingerprint"] for s in SHARDS}
    assert seal["inputs"]["shards"] == shards
    assert seal["parameters"] == plan.select_parameters("gather_calibration", CONFIG, PROMPTS)


def open_shard_seal(folder, shard):
    return dict(zarr.open_group(folder / "trajectories.zarr" / shard, mode="r").attrs)["seal"]


def test_equal_shards_give_equal_bytes_and_no_scratch_remains(tmp_path, find_store):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = gather(tmp_path / "a"), gather(tmp_path / "b", find_store)
    assert hash_tree(first / "calibration.zarr") == hash_tree(second / "calibration.zarr")
    assert [path.name for path in (first / "scratch").iterdir() if path.is_dir()] == []


def test_a_finished_set_is_kept_and_never_overwritten(tmp_path, caplog):
    folder = gather(tmp_path)
    before = hash_tree(folder / "calibration.zarr")
    with caplog.at_level("INFO", "taqmlx"):
        run_entry(folder, "gather_calibration")
    assert "is already finished" in caplog.text
    write_parameters(folder, selected_steps=2)
    with pytest.raises(UserError, match="selected_steps: 3 there, 2"):
        run_entry(folder, "gather_calibration")
    assert hash_tree(folder / "calibration.zarr") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "000 was made with other parameters"),
        ({"steps": 6}, "000 was made with other parameters"),
        ({"trajectories": 8}, "000 was made with other parameters"),
        ({"prompts_per_shard": 1}, "000 was made with other parameters"),
    ],
)
def test_shards_of_another_configuration_are_rejected(tmp_path, find_store, change, words):
    folder = copy_finished(tmp_path)
    write_parameters(folder, **change)
    with pytest.raises(UserError, match=words):
        run_entry(folder, "gather_calibration", trajectories=find_store(folder))


def test_shards_of_two_configurations_are_not_mixed(tmp_path, find_store):
    folder = copy_finished(tmp_path)
    shutil.rmtree(folder / "trajectories.zarr" / "001")
    write_parameters(folder, batch_size=7)
    run_entry(folder, "collect_shard", "001")
    with pytest.raises(UserError, match=r"001 was made with other parameters \(batch_size: 7 there, 2"):
        run_entry(folder, "gather_calibration", trajectories=find_store(folder))


@pytest.mark.parametrize("numbers", [[0, 2], [0, 1, 1]])
def test_each_trajectory_occurs_exactly_once(tmp_path, numbers):
    selection = Selection(np.array([0]), np.ones(1), np.ones(1), np.arange(3))
    states = np.zeros((1, 2, 2, 1), np.float16)
    with (tmp_path / "flat").open("w+b") as file, pytest.raises(UserError, match="trajectory 1 is in"):
        scatter_states(file, [Trajectory(number, 0, states, states[0]) for number in numbers], selection)


@pytest.mark.parametrize("name", ["xs/c.0.0.0.0", "ts/c.0", "cs/c.1.0.0.0", "prompt_indices/c.0"])
def test_damage_to_the_set_is_named(tmp_path, name):
    path = gather(tmp_path) / "calibration.zarr"
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        open_calibration(path).verify()
    (path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        open_calibration(path).verify()


def test_swapped_chunks_of_the_set_are_found(tmp_path):
    path = gather(tmp_path) / "calibration.zarr"
    first, second = path / "cs/c.0.0.0.0", path / "cs/c.1.0.0.0"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(UserError, match=r"calibration.zarr/cs does not match its seal"):
        open_calibration(path).verify()


# The original flat format


def test_the_flat_file_has_the_same_content_without_pickle(tmp_path):
    folder = gather(tmp_path)
    run_entry(folder, "export_npz")
    group = zarr.open_group(folder / "calibration.zarr", mode="r")
    with np.load(folder / "DiT_cali_data.npz", allow_pickle=False) as flat:
        assert sorted(flat) == sorted(["xs", "ts", "prompt_indices", "cs", "cs_pooled", "prompts", "cfg_scale"])
        for name in ("xs", "ts", "prompt_indices", "cs", "cs_pooled"):
            assert flat[name].dtype == group[name].dtype
            assert np.array_equal(flat[name], group[name][:])
        assert flat["prompts"].tolist() == PROMPTS
        assert flat["cfg_scale"].shape == ()
        assert flat["cfg_scale"] == 1.5


def test_equal_sets_give_equal_flat_files(tmp_path):
    folder = gather(tmp_path)
    run_entry(folder, "export_npz")
    first = (folder / "DiT_cali_data.npz").read_bytes()
    run_entry(folder, "export_npz")
    assert (folder / "DiT_cali_data.npz").read_bytes() == first


def test_a_damaged_set_is_not_exported(tmp_path):
    folder = gather(tmp_path)
    (folder / "calibration.zarr/ts/c.0").unlink()
    with pytest.raises(UserError, match=r"ts/c.0 is missing"):
        run_entry(folder, "export_npz")
    assert not (folder / "DiT_cali_data.npz").exists()
