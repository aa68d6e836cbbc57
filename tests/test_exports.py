"""The exported dataset has the layout of other programs and the content of the store."""

import shutil
from argparse import Namespace

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from taqmlx.models import embedded
from taqmlx.models.diffusionkit import load_pipeline_module
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.original_layout import read_latents, read_sample
from taqmlx.store.parameters import read_parameters
from taqmlx.store.trajectories import open_shards
from tools.small_results.shards import CONFIG, PROMPTS, build_finished, copy_finished, hash_tree
from workflow_scripts.datasets import decode_latents, export_latents, export_samples, write_manifest

COUNT, STEPS = CONFIG["trajectories"], CONFIG["steps"]


def export(entry, folder, out):
    params = folder / "params" / "collect_shard.json"
    entry.main(Namespace(params=params, trajectories=folder / "trajectories.zarr", out=out))
    return out


def read_trajectories(folder):
    parameters = read_parameters(CollectShard, folder / "params" / "collect_shard.json")
    return {
        trajectory.number: (shard, trajectory)
        for shard in open_shards(folder / "trajectories.zarr", parameters)
        for trajectory in map(shard.read_trajectory, range(shard.layout.rows))
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trajectories and all exports; not to be changed."""
    folder = copy_finished(tmp_path_factory.mktemp("exports"))
    export(export_samples, folder, folder / "exports" / "samples")
    export(export_latents, folder, folder / "exports" / "latents")
    decode(folder)
    return folder


def decode(folder):
    exports = folder / "exports"
    params = folder / "params" / "collect_shard.json"
    decode_latents.main(Namespace(params=params, latents=exports / "latents", out=exports / "images"))


def write(folder, saved=None):
    params, out = folder / "params" / "collect_shard.json", folder / "manifest.json"
    write_manifest.main(Namespace(params=params, trajectories=folder / "trajectories.zarr", saved=saved, out=out))
    return read_json(out)


def test_every_state_and_the_final_latents_are_samples(folder):
    names = sorted(path.name for path in (folder / "exports/samples").iterdir())
    assert names == [f"{image:04d}_{step:03d}.npz" for image in range(COUNT) for step in range(STEPS + 1)]
    for number, (shard, trajectory) in read_trajectories(folder).items():
        for step, x in enumerate([*trajectory.states, trajectory.latents]):
            sample = read_sample(folder / f"exports/samples/{number:04d}_{step:03d}.npz")
            np.testing.assert_array_equal(sample.x, x.astype(np.float32))
            final = step == STEPS
            levels = (0, 0) if final else (shard.small["ts"][step], shard.small["sigmas"][step])
            assert sample[1:] == (*levels, step, number, final)


def test_a_sample_has_the_keys_shapes_and_types_of_the_original_layout(folder):
    with np.load(folder / "exports/samples/0002_003.npz", allow_pickle=False) as file:
        described = {key: (file[key].dtype.name, file[key].shape) for key in file.files}
    assert described == {
        "x": ("float32", (1, 8, 8, 16)),
        "timestep": ("float32", ()),
        "sigma": ("float32", ()),
        "step_index": ("int32", ()),
        "image_id": ("int32", ()),
        "is_final": ("bool", ()),
    }


def test_final_latents_are_exported_without_scale_and_shift_as_in_diffusionkit(folder):
    latent_format = load_pipeline_module().SD3LatentFormat()
    for number, (_, trajectory) in read_trajectories(folder).items():
        found = read_latents(folder / f"exports/latents/{number:04d}.npy")
        np.testing.assert_allclose(found, np.array(latent_format.process_out(mx.array(trajectory.latents))), atol=1e-6)


def test_pictures_are_decoded_from_the_stored_latents(folder):
    decoder = embedded.load_decoder()
    for number, (_, trajectory) in read_trajectories(folder).items():
        found = np.asarray(Image.open(folder / f"exports/images/{number:04d}.png"))
        wanted = embedded.decode_latents(decoder, mx.array(trajectory.latents[None]))[0]
        assert np.abs(found.astype(int) - wanted).max() <= 1


def test_a_repeated_export_is_equal(folder, tmp_path):
    again = export(export_samples, folder, tmp_path / "samples")
    assert hash_tree(again) == hash_tree(folder / "exports/samples")


def test_a_damaged_shard_is_not_exported_and_leaves_nothing_behind(tmp_path):
    folder = copy_finished(tmp_path)
    (folder / "trajectories.zarr/001/xs/c.0.0.0.0.0").unlink()
    for entry in (export_samples, export_latents):
        with pytest.raises(UserError, match=r"xs/c\.0\.0\.0\.0\.0 is missing"):
            export(entry, folder, folder / "exports" / "out")
    assert list((folder / "exports").iterdir()) == []


def test_an_export_does_not_overwrite(folder):
    with pytest.raises(UserError, match="exports/latents is in the way"):
        export(export_latents, folder, folder / "exports" / "latents")


@pytest.mark.parametrize("latents", [np.full((1, 8, 8, 16), np.nan, np.float32), np.zeros((1, 4, 4, 16), np.float32)])
def test_latents_that_cannot_be_decoded_are_named(folder, tmp_path, latents):
    shutil.copytree(folder / "params", tmp_path / "params")
    shutil.copytree(folder / "exports/latents", tmp_path / "exports/latents")
    np.save(tmp_path / "exports/latents/0003.npy", latents)
    with pytest.raises(UserError, match=r"0003\.npy has latents of shape"):
        decode(tmp_path)
    assert not (tmp_path / "exports/images").exists()


def test_the_manifest_has_every_image_with_its_prompt_and_seed(folder):
    manifest = write(folder)
    shared = {key: value for key, value in manifest.items() if key not in ("images", "shards")}
    assert shared == {
        "n_completed": 7,
        "num_images": 7,
        "num_steps": 5,
        "cfg_scale": 1.5,
        "latent_size": [8, 8],
        "prompt_path": "conditioning.json",
        "model_version": "embedded",
        "use_t5": False,
        "seed_base": 3,
        "images_saved": 0,
        "latents_saved": 7,
    }
    assert [image["prompt"] for image in manifest["images"]] == [PROMPTS[number % 3] for number in range(7)]
    assert manifest["images"][4] == {
        "image_id": 4,
        "prompt": PROMPTS[1],
        "seed": 7,
        "cfg_weight": 1.5,
        "num_steps": 5,
        "filename": "0004.png",
        "latent_filename": "0004.npy",
    }


def test_the_manifest_names_the_file_of_the_prompts(folder):
    manifest = write(folder)
    listed = read_json(folder / manifest["prompt_path"])["parameters"]["prompts"]
    assert [image["prompt"] for image in manifest["images"]] == [listed[number % len(listed)] for number in range(7)]


def test_the_manifest_of_an_unfinished_run_has_the_finished_trajectories(tmp_path):
    folder = copy_finished(tmp_path)
    shutil.rmtree(folder / "trajectories.zarr/001")
    manifest = write(folder)
    assert (manifest["n_completed"], manifest["num_images"]) == (5, 7)
    assert [image["image_id"] for image in manifest["images"]] == [0, 1, 3, 4, 6]
    shutil.rmtree(folder / "trajectories.zarr/000")
    assert write(folder)["images"] == []


def test_the_manifest_of_exports_counts_their_files(folder):
    (folder / "exports/images/0006.png").rename(folder / "0006.png")
    counts = write(folder, folder / "exports")
    (folder / "0006.png").rename(folder / "exports/images/0006.png")
    assert (counts["images_saved"], counts["latents_saved"]) == (6, 7)


def test_shards_of_other_parameters_are_not_in_the_manifest(tmp_path):
    folder = copy_finished(tmp_path)
    stage = plan.select_parameters("collect_shard", CONFIG | {"seed": 4}, PROMPTS)
    write_json(folder / "params/collect_shard.json", stage)
    with pytest.raises(UserError, match=r"000 was made with other parameters \(seed: 3 there, 4"):
        write(folder)


def test_exporting_does_not_change_the_trajectories(folder):
    assert hash_tree(folder / "trajectories.zarr") == hash_tree(build_finished() / "trajectories.zarr")
