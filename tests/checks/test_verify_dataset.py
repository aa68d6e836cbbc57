"""Verification passes complete results, and finds and names every planted fault."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from taqmlx.checks.trajectories import REPLAY_TOLERANCE
from taqmlx.store.conditioning import write_conditioning
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.store.original_layout import name_sample, read_sample, write_latents, write_sample
from taqmlx.store.seal import make_seal, read_file_seal, read_group_seal, write_group_seal
from taqmlx.store.tensors import read_tensors
from tools.faults.damage import amend, edit, flip, forge, swap, truncate
from workflow_scripts.tools.verify_dataset import CHECKS

ALL = 35  # steps of the trajectories: all of them are replayed


def put_nan(group):
    group["xs"][1, 2, 0, 0, 0] = np.nan


def swap_rows(group):
    for name in ("xs", "latents"):
        values = group[name][...]
        values[[0, 3]] = values[[3, 0]]
        group[name][...] = values


def raise_a_sigma(group):
    group["sigmas"][3] = group["sigmas"][1]


def change_a_state(group):
    group["xs"][2, 3] = group["xs"][2, 3] * 1.01


def swap_encodings(results):
    """Exchange the encodings of the first two prompts, and seal everything as if they were right."""
    path = results / "conditioning.safetensors"
    tensors, seal = read_tensors(path), read_file_seal(path.with_suffix(".json"))
    cs, cs_pooled = (tensors[name][[1, 0, 2]] for name in ("cs", "cs_pooled"))
    model = seal["inputs"]["model"]
    sealed = write_conditioning(path, seal["parameters"], model, zip(cs, cs_pooled, strict=True))
    digests = sealed["sha256"]["prompts"]
    for shard, own in (("000", digests[:2]), ("001", digests[2:])):
        group = results / "trajectories.zarr" / shard
        found = read_group_seal(group)
        inputs = found["inputs"] | {"conditioning": own}
        write_group_seal(group, make_seal(found["parameters"], inputs, found["sha256"]))


def swap_prompts(results):
    group = results / "trajectories.zarr/000"
    forge(group, lambda opened: None, prompts=read_group_seal(group)["parameters"]["prompts"][::-1])


def swap_prompts_of_the_manifest(value):
    images = value["images"]
    images[0]["prompt"], images[1]["prompt"] = images[1]["prompt"], images[0]["prompt"]


def change_a_mean(value):
    value["inputs"]["modulation"]["per_step"]["mean"][1] += 1e-3


def change_an_array(results):
    """Change an array of the statistics, which then vouch for the changed file."""
    path = results / "activations/statistics.safetensors"
    arrays = {key: array.copy() for key, array in read_tensors(path).items()}
    next(iter(arrays.values())).flat[0] += 1
    save_file(arrays, path)
    amend(path.with_suffix(".json"), lambda value: value["arrays"].update(sha256=hash_file(path)))


def change_a_sample(results):
    path = name_sample(results / "exports/samples", 4, 2)
    sample = read_sample(path)
    write_sample(path, sample._replace(x=sample.x + np.float32(0.01)))


def scale_twice(results):
    """What decoding by the scale alone, without the shift, would have started from."""
    path = results / "exports/latents/0005.npy"
    write_latents(path, np.load(path)[0] / 1.5305)


def darken(path):
    Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)


def change_the_flat_file(results):
    path = results / "DiT_cali_data.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["xs"] = arrays["xs"] + np.float16(1)
    np.savez(path, **arrays)


MANIFESTS = ("manifest", "exported manifest")  # stale where a seal has changed
EVERY = "every file"  # no longer what vouches for it: changed in place, and not as whoever makes it would
XS = "trajectories.zarr/000/xs"
# what happens to the results, the checks that must fail (and no others), and what is said
DAMAGES = {
    "a truncated chunk": (
        lambda r: truncate(r / XS / "c.1.0.0.0.0"),
        {"checksums", "replay", "exported samples", "exported latents"},
        "checksums: .*xs/c.1.0.0.0.0 is damaged",
    ),
    "a flipped bit": (
        lambda r: flip(r / XS / "c.4.1.0.0.0"),
        {"checksums", "replay", "exported samples", "exported latents"},
        "checksums: .*xs/c.4.1.0.0.0 is damaged",
    ),
    "missing steps": (
        lambda r: (r / XS / "c.2.1.0.0.0").unlink(),
        {"checksums", "replay", "exported samples", "exported latents"},
        "checksums: .*xs/c.2.1.0.0.0 is missing",
    ),
    "NaN": (
        lambda r: forge(r / "trajectories.zarr/000", put_nan),
        {"finite values", "replay", *MANIFESTS, "exported samples"},
        "finite values: .*trajectory 3 has 1 NaN or infinite, first at step 2",
    ),
    "trajectories swapped": (
        lambda r: forge(r / "trajectories.zarr/000", swap_rows),
        {"first states", "replay", *MANIFESTS, "exported samples", "exported latents", "exported pictures"},
        "first states: .*trajectory 0 does not start from the noise of its seed",
    ),
    "a changed state": (
        lambda r: forge(r / "trajectories.zarr/000", change_a_state),
        {"replay", *MANIFESTS, "exported samples"},
        "replay: .*trajectory 6, step 2: the model gives a different state",
    ),
    "encodings of two prompts swapped": (
        swap_encodings,
        {"replay", *MANIFESTS, "calibration set"},
        "replay: .*trajectory 0, step 0: the model gives a different state",
    ),
    "prompts swapped in a seal": (
        swap_prompts,
        {"checksums", "prompts and seeds", *MANIFESTS, "calibration set", "exported samples", "exported latents"},
        "prompts and seeds: .*000 was drawn for the prompt .*, the configuration gives 'a \"small\" red circle'",
    ),
    "another prompt's number": (
        lambda r: forge(r / "trajectories.zarr/001", lambda g: g["prompt_indices"].__setitem__(0, 1)),
        {"prompts and seeds", *MANIFESTS},
        r"prompts and seeds: .*001/prompt_indices is \[1, 2\], the configuration gives \[2, 2\]",
    ),
    "a rising sigma": (
        lambda r: forge(r / "trajectories.zarr/001", raise_a_sigma),
        {"sigmas", *MANIFESTS, "exported samples"},
        "sigmas: .*001/sigmas: not below the one before at step 3",
    ),
    "another shape": (
        lambda r: edit(r / XS / "zarr.json", lambda v: v["shape"].__setitem__(1, 6)),
        {"shapes and types", "checksums", "exported samples", "exported latents"},
        r"shapes and types: .*000/xs/zarr.json: shape is \[5, 6, 8, 8, 16\]",
    ),
    "another type": (
        lambda r: edit(r / XS / "zarr.json", lambda v: v.update(data_type="float32")),
        {"shapes and types", "checksums", "exported samples", "exported latents"},
        "shapes and types: .*000/xs/zarr.json: data_type is float32 instead of float16",
    ),
    "a missing shard": (
        lambda r: shutil.rmtree(r / "trajectories.zarr/001"),
        {"counts", *MANIFESTS, "calibration set", "exported samples", "exported latents"},
        "counts: .*trajectories.zarr/001 is missing",
    ),
    "a shard too many": (
        lambda r: shutil.copytree(r / "trajectories.zarr/001", r / "trajectories.zarr/002"),
        {"counts"},
        "counts: .*002 is beyond the 2 shards of the configuration",
    ),
    "a trajectory too few": (
        lambda r: edit_rows(r / "trajectories.zarr/001"),
        {"counts", "checksums", *MANIFESTS, "calibration set", "exported samples", "exported latents"},
        "counts: .*001 has 1 trajectories instead of 2",
    ),
    "a stale manifest: prompts swapped": (
        lambda r: amend(r / "manifest.json", swap_prompts_of_the_manifest),
        {"manifest"},
        "manifest: .*manifest.json is stale: image 0000: prompt: ",
    ),
    "a stale manifest: an image less": (
        lambda r: amend(r / "manifest.json", lambda v: v["images"].pop()),
        {"manifest"},
        "manifest: .*manifest.json is stale: image 0006: ",
    ),
    "a stale manifest: other seals": (
        lambda r: amend(r / "manifest.json", lambda v: v["shards"].update({"000": "0"})),
        {"manifest"},
        "manifest: .*manifest.json is stale: shards is ",
    ),
    "an unreadable manifest": (
        lambda r: (r / "manifest.json").write_text("[1"),
        {"manifest", EVERY},
        "manifest: .*manifest.json is damaged",
    ),
    "a chunk of the calibration set": (
        lambda r: flip(r / "calibration.zarr/xs/c.0.0.0.0"),
        {"calibration set", "flat calibration file"},
        "calibration set: .*xs/c.0.0.0.0 is damaged",
    ),
    "another flat file": (
        change_the_flat_file,
        {"flat calibration file", EVERY},
        "flat calibration file: .*DiT_cali_data.npz: xs is not the calibration set's",
    ),
    "a changed statistic": (
        lambda r: amend(r / "activations/statistics.json", change_a_mean),
        {"statistics", "quantization config"},
        r"statistics: .*inputs.modulation.per_step.mean\[1\] is .*, its shards give ",
    ),
    "a changed array of the statistics": (
        change_an_array,
        {"statistics", "quantization config"},
        "statistics: .*statistics.safetensors: .* differs from the merged shards",
    ),
    "packed weights": (
        lambda r: flip(r / "quantized/model.safetensors"),
        {"packed weights", "quantization config", EVERY},
        "packed weights: .*model.safetensors",
    ),
    "a step size": (
        lambda r: flip(r / "quant_config.safetensors"),
        {"quantization config", EVERY},
        "quantization config: .*quant_config.safetensors is not the file",
    ),
    "a missing sample": (
        lambda r: (r / "exports/samples/0003_002.npz").unlink(),
        {"exported samples", EVERY},
        "exported samples: .*0003_002.npz is missing",
    ),
    "a changed sample": (
        change_a_sample,
        {"exported samples", EVERY},
        "exported samples: .*0004_002.npz is not the state of the store",
    ),
    "samples swapped": (
        lambda r: swap(r / "exports/samples/0000_001.npz", r / "exports/samples/0003_001.npz"),
        {"exported samples", EVERY},
        "exported samples: .*0000_001.npz is not the state of the store",
    ),
    "a file too many": (
        lambda r: (r / "exports/samples/0007_000.npz").touch(),
        {"exported samples"},
        "exported samples: .*0007_000.npz does not belong to it",
    ),
    "latents scaled twice": (
        scale_twice,
        {"exported latents", EVERY},
        "exported latents: .*0005.npy does not match the store's final latents",
    ),
    "a missing picture": (
        lambda r: (r / "exports/images/0001.png").unlink(),
        {"exported pictures", "exported manifest", EVERY},
        "exported pictures: .*0001.png is missing",
    ),
    "a darker picture": (
        lambda r: darken(r / "exports/images/0002.png"),
        {"exported pictures", EVERY},
        "exported pictures: .*0002.png does not match the decoded final latents",
    ),
}


def edit_rows(group):
    """Drop a trajectory from the seal of a shard, and seal it again."""
    seal = read_group_seal(group)
    parameters = seal["parameters"] | {"rows": seal["parameters"]["rows"][:1]}
    write_group_seal(group, make_seal(parameters, seal["inputs"], seal["sha256"]))


def test_complete_results_pass_every_check(complete, verify):
    outcome = verify(complete)
    assert (outcome.error, outcome.faults) == ("", [])
    assert outcome.results == dict.fromkeys(CHECKS, "ok") | {"weights for mflux": "not made"}
    assert outcome.details["counts"] == "2 of 2 shards, 7 of 7 trajectories"


@pytest.mark.parametrize("name", DAMAGES)
def test_a_planted_fault_is_found_and_named(results, verify, name):
    damage, failed, words = DAMAGES[name]
    damage(results)
    outcome = verify(results, replay=ALL)
    assert outcome.failed == failed
    assert any(re.search(words, fault) for fault in outcome.faults), outcome.faults
    assert f"{len(failed)} of {len(CHECKS)} checks fail: " in outcome.error


def test_missing_results_are_not_faults(results, verify):
    for name in ("exports", "quantized", "activations", "calibration.zarr"):
        shutil.rmtree(results / name)
    for name in ("manifest.json", "quant_config.json", "DiT_cali_data.npz"):
        (results / name).unlink()
    outcome = verify(results)
    assert not outcome.error
    assert sorted(set(outcome.results.values())) == ["not made", "ok"]
    assert list(outcome.results.values()).count("not made") == 11


def test_a_correct_step_is_far_below_the_tolerance_and_a_wrong_prompt_far_above(results, verify):
    errors = [float(x) for x in re.findall(r"at most (\S+) of", verify(results, replay=ALL).details["replay"])]
    assert errors[0] < REPLAY_TOLERANCE / 2
    swap_encodings(results)
    wrong = [
        float(x) for fault in verify(results, replay=ALL).faults for x in re.findall(r"relative error (\S+):", fault)
    ]
    assert len(wrong) == 25  # every step of the five trajectories of the two prompts
    assert min(wrong) > 3 * REPLAY_TOLERANCE


def test_the_seed_selects_the_replayed_steps(results, verify):
    forge(results / "trajectories.zarr/000", change_a_state)
    found = {seed: "replay" in verify(results, replay=12, seed=seed).failed for seed in range(6)}
    assert set(found.values()) == {True, False}


@pytest.mark.parametrize("seed", range(4))
def test_every_shard_has_one_replayed_step_before_any_has_two(results, verify, seed):
    forge(results / "trajectories.zarr/001", lambda group: group["xs"].__setitem__(..., group["xs"][...] * 1.01))
    assert "replay" in verify(results, replay=2, seed=seed).failed


def test_the_command_prints_a_table_and_a_verdict(results, python):
    command = [python, "-m", "workflow_scripts.tools.verify_dataset", "--results", str(results)]
    done = subprocess.run([*command, "--replay", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split("|")[1:3] == [" check                 ", " result   "]
    write_json(results / "manifest.json", read_json(results / "manifest.json") | {"n_completed": 6})
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "| manifest              | FAIL     |" in failed.stdout
    assert "error: " in failed.stderr
