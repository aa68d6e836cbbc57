"""A dataset in the original layout is imported unchanged or not at all, with every reason."""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr

from taqmlx.planning import configuration, plan
from taqmlx.planning.stages import CollectShard
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.original_layout import name_sample, read_sample, write_latents, write_sample
from taqmlx.store.seal import read_group_seal
from tools.faults.damage import amend, swap, truncate
from tools.small_results.exports import export
from tools.small_results.shards import (
    CONFIG,
    PROMPTS,
    SHARDS,
    copy_finished,
    hash_tree,
    prepare,
    run_entry,
    write_parameters,
)
from workflow_scripts.tools import import_samples, write_import_config


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Recorded trajectories and their exports; not to be changed."""
    folder = copy_finished(tmp_path_factory.mktemp("recorded"))
    export(folder)
    return folder


@pytest.fixture
def dataset(exported, tmp_path):
    """A folder in the original layout, to damage."""
    return shutil.copytree(exported / "exports", tmp_path / "calibration_data")


@pytest.fixture
def target(tmp_path):
    """A folder of results with parameters and encoded prompts, and no trajectories."""
    return prepare(tmp_path / "results")


def take(dataset, target):
    import_samples.main(
        Namespace(
            folder=dataset,
            params=target / "params" / "collect_shard.json",
            conditioning=target / "conditioning.safetensors",
            trajectories=target / "trajectories.zarr",
        )
    )


def change(dataset, image, step, **values):
    path = name_sample(dataset / "samples", image, step)
    write_sample(path, read_sample(path)._replace(**values))


def drop_key(path):
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != "sigma"}
    np.savez(path, **arrays)


def put(value):
    x = np.zeros((8, 8, 16), np.float32)
    x[1, 2, 3] = value
    return x


def test_an_exported_dataset_is_imported_unchanged(exported, dataset, target):
    take(dataset, target)
    for shard in SHARDS:
        found, wanted = (
            zarr.open_group(folder / "trajectories.zarr" / shard, mode="r") for folder in (target, exported)
        )
        for name, array in wanted.arrays():
            np.testing.assert_array_equal(found[name][...], array[...])
        seals = [read_group_seal(folder / "trajectories.zarr" / shard) for folder in (target, exported)]
        assert seals[0]["sha256"] == seals[1]["sha256"]


def test_imported_shards_pass_as_recorded_ones_and_are_marked(dataset, target):
    take(dataset, target)
    run_entry(target, "verify_trajectories")
    run_entry(target, "gather_calibration")
    stage = plan.select_stage(CollectShard, CONFIG, PROMPTS)
    assert list(plan.find_conflicts(target, stage)) == []
    assert read_group_seal(target / "trajectories.zarr/000")["inputs"]["imported"].keys() == {"manifest"}


def test_a_second_import_has_nothing_to_do(dataset, target):
    take(dataset, target)
    before = hash_tree(target / "trajectories.zarr")
    take(dataset, target)
    assert hash_tree(target / "trajectories.zarr") == before


def test_an_import_that_fails_half_way_leaves_no_shard(dataset, target):
    obstacle = target / "scratch" / "001"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    with pytest.raises(NotADirectoryError):
        take(dataset, target)
    assert [path.name for path in (target / "trajectories.zarr").iterdir()] == ["zarr.json"]
    obstacle.unlink()
    take(dataset, target)
    run_entry(target, "verify_trajectories")


def test_recorded_trajectories_are_not_overwritten(dataset, tmp_path):
    folder = copy_finished(tmp_path)
    before = hash_tree(folder / "trajectories.zarr")
    with pytest.raises(UserError, match=r"000 was made with other inputs \(imported"):
        take(dataset, folder)
    assert hash_tree(folder / "trajectories.zarr") == before


def test_hidden_files_are_ignored(dataset, target):
    (dataset / "samples" / ".snakemake_timestamp").touch()
    take(dataset, target)


def test_a_dataset_without_latents_and_pictures_is_accepted(dataset, target):
    shutil.rmtree(dataset / "latents")
    shutil.rmtree(dataset / "images")
    take(dataset, target)
    run_entry(target, "verify_trajectories")


# what happens to the dataset, and the lines that are said of it
DAMAGES = {
    "a missing step": (
        lambda d: name_sample(d / "samples", 2, 3).unlink(),
        ["missing: .*0002_003.npz is missing"],
    ),
    "a missing image": (
        lambda d: [path.unlink() for path in (d / "samples").glob("0004_*")],
        [f"missing: .*0004_{step:03d}.npz is missing" for step in range(6)],
    ),
    "a truncated sample": (
        lambda d: truncate(name_sample(d / "samples", 1, 0)),
        ["damaged: .*0001_000.npz is damaged"],
    ),
    "an empty sample": (
        lambda d: name_sample(d / "samples", 1, 0).write_bytes(b""),
        ["damaged: .*0001_000.npz is damaged"],
    ),
    "a missing key": (
        lambda d: drop_key(name_sample(d / "samples", 0, 1)),
        ["damaged: .*0000_001.npz has no sigma"],
    ),
    "NaN": (
        lambda d: change(d, 3, 1, x=put(np.nan)),
        ["wrong: .*0003_001.npz: 1 of 1024 values of x are NaN or infinite"],
    ),
    "a value beyond float16": (
        lambda d: change(d, 3, 1, x=put(1e5)),
        ["wrong: .*0003_001.npz: 100000 in x is too large for float16"],
    ),
    "another shape": (
        lambda d: change(d, 3, 1, x=np.zeros((4, 8, 16), np.float32)),
        [r"wrong: .*0003_001.npz: x is \(4, 8, 16\), the model's latents are \(8, 8, 16\)"],
    ),
    "steps swapped": (
        lambda d: swap(name_sample(d / "samples", 5, 1), name_sample(d / "samples", 5, 2)),
        ["wrong: .*0005_001.npz: step_index is 2", "wrong: .*0005_002.npz: step_index is 1"],
    ),
    "images swapped": (
        lambda d: swap(name_sample(d / "samples", 5, 1), name_sample(d / "samples", 6, 1)),
        ["wrong: .*0005_001.npz: image_id is 6", "wrong: .*0006_001.npz: image_id is 5"],
    ),
    "a last sample that is none": (
        lambda d: change(d, 0, 5, is_final=False),
        ["wrong: .*0000_005.npz: is_final is False, its name says True"],
    ),
    "another schedule": (
        lambda d: change(d, 0, 2, sigma=0.5),
        ["wrong: .*0000_002.npz: sigma is 0.5, the schedule of 5 steps has "],
    ),
    "a sample too many": (
        lambda d: shutil.copy(d / "samples/0000_000.npz", d / "samples/0007_000.npz"),
        ["foreign: .*0007_000.npz belongs to none of the images"],
    ),
    "missing latents": (
        lambda d: (d / "latents/0006.npy").unlink(),
        ["missing: .*0006.npy is missing"],
    ),
    "other latents": (
        lambda d: write_latents(d / "latents/0006.npy", np.zeros((8, 8, 16))),
        ["wrong: .*0006.npy does not match the last sample"],
    ),
    "prompts swapped": (
        lambda d: amend(d / "manifest.json", swap_prompts),
        ["wrong: manifest.json: image 0000: prompt is ", "wrong: manifest.json: image 0001: prompt is "],
    ),
    "another seed": (
        lambda d: amend(d / "manifest.json", lambda v: v["images"][5].update(seed=1)),
        ["wrong: manifest.json: image 0005: seed is 1, the configuration's is 8"],
    ),
    "other steps": (
        lambda d: amend(d / "manifest.json", lambda v: v.update(num_steps=50)),
        ["wrong: manifest.json: num_steps is 50, the configuration's is 5"],
    ),
    "an image less in the manifest": (
        lambda d: amend(d / "manifest.json", lambda v: v["images"].pop()),
        ["missing: manifest.json: image 0006 is not listed"],
    ),
    "an image twice in the manifest": (
        lambda d: amend(d / "manifest.json", lambda v: v["images"].append(v["images"][0])),
        ["wrong: manifest.json: image 0000 is listed 2 times"],
    ),
}


def swap_prompts(manifest):
    images = manifest["images"]
    images[0]["prompt"], images[1]["prompt"] = images[1]["prompt"], images[0]["prompt"]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_fault_is_named_and_nothing_is_imported(dataset, target, caplog, name):
    damage, lines = DAMAGES[name]
    damage(dataset)
    kind = lines[0].partition(":")[0]
    with pytest.raises(UserError, match=f"{len(lines)} {kind}, listed above; nothing was imported"):
        take(dataset, target)
    found = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(found) == len(lines)
    for line, words in zip(found, lines, strict=True):
        assert re.match(words, line), line
    assert [path.name for path in (target / "trajectories.zarr").iterdir()] == ["zarr.json"]


def test_faults_are_counted_by_kind(dataset, target):
    name_sample(dataset / "samples", 0, 0).unlink()
    name_sample(dataset / "samples", 6, 4).unlink()
    truncate(name_sample(dataset / "samples", 3, 3))
    with pytest.raises(UserError, match="2 missing, 1 damaged, listed above"):
        take(dataset, target)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "manifest.json is damaged"), ("[]", "not a manifest"), ('{"num_steps": 5}', "cfg_scale is missing")],
)
def test_an_unusable_manifest_is_named(dataset, target, content, words):
    (dataset / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=words):
        take(dataset, target)


def test_the_configuration_of_a_dataset_is_written_from_its_manifest(dataset, tmp_path, target):
    out = tmp_path / "imported.yaml"
    write_import_config.main(Namespace(manifest=dataset / "manifest.json", out=out))
    values = yaml.safe_load(out.read_text())
    config, prompts = configuration.load(values | {"capture_points": 8})
    assert prompts == PROMPTS
    assert {key: config[key] for key in ("trajectories", "steps", "seed", "cfg_scale")} == {
        key: CONFIG[key] for key in ("trajectories", "steps", "seed", "cfg_scale")
    }
    assert Path(values["results_dir"]).name == "imported"
    write_parameters(target, **{key: config[key] for key in ("trajectories", "steps", "seed", "cfg_scale")})
    take(dataset, target)


@pytest.mark.parametrize("prompt", ["two\nlines", "", " a circle"])
def test_a_prompt_that_no_prompt_file_can_hold_is_rejected(dataset, tmp_path, prompt):
    amend(dataset / "manifest.json", lambda value: value["images"][3].update(prompt=prompt))
    with pytest.raises(UserError, match="is empty or not a single line"):
        write_import_config.main(Namespace(manifest=dataset / "manifest.json", out=tmp_path / "imported.yaml"))
    assert not (tmp_path / "imported.yaml").exists()


def test_timesteps_in_fp16_are_those_of_the_schedule(dataset, target):
    for path in (dataset / "samples").glob("*.npz"):
        with np.load(path) as file:
            arrays = dict(file)
        np.savez_compressed(path, **arrays | {"timestep": arrays["timestep"].astype(np.float16)})
    take(dataset, target)


def test_the_manifest_of_the_exports_is_plain_json(dataset):
    manifest = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["images_saved"] == manifest["latents_saved"] == len(manifest["images"])
    assert read_json(dataset / "manifest.json").items() <= manifest.items()
