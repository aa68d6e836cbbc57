"""Every kind of damage to finished shards is found and named, by the check and by gathering."""

import re
import shutil

import numpy as np
import pytest
import zarr

from taqmlx.store.errors import UserError
from tools.faults.damage import edit, flip, reseal, swap
from tools.small_results.shards import build_finished, copy_finished, hash_tree, run_entry, write_parameters


def rewrite_levels(group):
    zarr.open_group(group, mode="r+")["ts"][...] = np.arange(5, dtype=np.float32)


def damage_parameters(group):
    edit(group / "zarr.json", lambda value: value["attributes"]["seal"]["parameters"].update(seed=4))


# what happens to the group, and what is said of it
DAMAGES = {
    "a flipped bit": (lambda g: flip(g / "xs/c.3.1.0.0.0"), "xs/c.3.1.0.0.0 is damaged"),
    "a flipped bit in final latents": (lambda g: flip(g / "latents/c.2.0.0.0"), "latents/c.2.0.0.0 is damaged"),
    "a missing chunk": (lambda g: (g / "xs/c.4.2.0.0.0").unlink(), "xs/c.4.2.0.0.0 is missing"),
    "chunks of one trajectory swapped": (
        lambda g: swap(g / "xs/c.1.0.0.0.0", g / "xs/c.1.1.0.0.0"),
        r"xs/c.1.\* or .*latents/c.1.\*: trajectory 3 does not match its seal",
    ),
    "chunks of two trajectories swapped": (
        lambda g: swap(g / "xs/c.2.1.0.0.0", g / "xs/c.3.1.0.0.0"),
        r"xs/c.2.\* or .*latents/c.2.\*: trajectory 6 does not match its seal",
    ),
    "another schedule": (rewrite_levels, "000/ts does not match its seal"),
    "a missing small chunk": (lambda g: (g / "seeds/c.0").unlink(), "seeds/c.0 is missing"),
    "a damaged seal": (damage_parameters, "000 has a damaged seal"),
    "no seal": (lambda g: edit(g / "zarr.json", lambda v: v["attributes"].clear()), "000 has no seal"),
    "a truncated seal": (lambda g: (g / "zarr.json").write_text("{"), "000/zarr.json is damaged"),
    "other parameters": (lambda g: reseal(g, seed=4), r"000 was made with other parameters \(seed: 4 there, 3"),
    "another version": (lambda g: reseal(g, version=0), r"000 was made with other parameters \(version"),
    "another shape": (
        lambda g: edit(g / "xs/zarr.json", lambda v: v["shape"].__setitem__(1, 6)),
        r"000/xs/zarr.json: shape is \[5, 6, 8, 8, 16\]",
    ),
    "a missing array": (lambda g: shutil.rmtree(g / "xs"), "000/xs/zarr.json is missing"),
    "a missing shard": (shutil.rmtree, "000/zarr.json is missing"),
}


def test_intact_shards_pass_and_are_not_changed(caplog, find_store):
    before = hash_tree(build_finished())
    with caplog.at_level("INFO", "taqmlx"):
        run_entry(build_finished(), "verify_trajectories", trajectories=find_store(build_finished()))
    assert "2 shards, 7 trajectories, all match their seals" in caplog.text
    assert hash_tree(build_finished()) == before


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(tmp_path, caplog, find_store, name):
    damage, words = DAMAGES[name]
    folder = copy_finished(tmp_path)
    damage(folder / "trajectories.zarr" / "000")
    store = find_store(folder)
    with pytest.raises(UserError, match=r"trajectories.zarr has [12] faults?, listed above"):
        run_entry(folder, "verify_trajectories", trajectories=store)
    assert re.search(words, caplog.text)
    assert str(store / "001") not in caplog.text
    with pytest.raises(UserError, match=words):
        run_entry(folder, "gather_calibration", trajectories=store)
    assert not (folder / "calibration.zarr").exists()


def test_every_fault_is_listed(tmp_path, find_store):
    folder = copy_finished(tmp_path)
    flip(folder / "trajectories.zarr/000/xs/c.0.0.0.0.0")
    flip(folder / "trajectories.zarr/001/xs/c.1.0.0.0.0")
    (folder / "trajectories.zarr/001/xs/c.0.0.0.0.0").unlink()
    with pytest.raises(UserError, match="3 faults"):
        run_entry(folder, "verify_trajectories", trajectories=find_store(folder))


def test_a_leftover_file_is_named_and_ignored(tmp_path, caplog, find_store):
    folder = copy_finished(tmp_path)
    (folder / "trajectories.zarr/000/xs/c.0.0.0.0.0.12.partial").touch()
    (folder / "trajectories.zarr/000/.snakemake_timestamp").touch()
    store = find_store(folder)
    with pytest.raises(UserError, match="1 fault,"):
        run_entry(folder, "verify_trajectories", trajectories=store)
    assert "0.12.partial does not belong" in caplog.text
    run_entry(folder, "gather_calibration", trajectories=store)


def test_shards_of_another_configuration_are_named(tmp_path, caplog, find_store):
    folder = copy_finished(tmp_path)
    write_parameters(folder, batch_size=4)
    with pytest.raises(UserError, match="2 faults"):
        run_entry(folder, "verify_trajectories", trajectories=find_store(folder))
    assert "(batch_size: 2 there, 4 in the configuration)" in caplog.text
