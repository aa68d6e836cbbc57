"""The sensitivity of a block's layers is measured from captured rows, with its origin."""

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import psutil
import pytest

from taqmlx.planning import configuration, plan
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.seal import make_seal, read_group_seal, write_group_seal
from taqmlx.store.sensitivity_file import read_sensitivity, read_sensitivity_arrays
from tools.small_results import study as small
from tools.small_results.presets import PAPER
from workflow_scripts.blocks import capture_blocks
from workflow_scripts.sensitivity import measure_sensitivity

SHARDS = ("00", "01")
WIDTHS = ["2", "3", "4", "5", "6", "8"]


def select(stage: str, **changes) -> plan.Parameters:
    values = PAPER | {"selected_steps": 3, "capture_points": 12} | changes
    config = configuration.complete(values, configuration.load_schema())
    return plan.select_parameters(stage, config, [])


def capture(folder: Path) -> list[Path]:
    """Capture 12 points at 3 steps; the parts."""
    small.write_calibration(folder / "calibration.zarr")
    write_json(folder / "capture.json", select("capture_blocks"))
    parts = [folder / "block_inputs.zarr" / shard for shard in SHARDS]
    for shard, out in zip(SHARDS, parts, strict=True):
        named = {"params": folder / "capture.json", "calibration": folder / "calibration.zarr"}
        capture_blocks.main(Namespace(shard=shard, blocks=None, scratch=folder / "scratch" / shard, out=out, **named))
    return parts


def measure(folder: Path, parts: list[Path], block: str, **changes) -> Path:
    """Run the entry; the file."""
    write_json(folder / "params.json", select("measure_sensitivity", **changes))
    out = folder / "sensitivity" / f"{block}.json"
    measure_sensitivity.main(Namespace(params=folder / "params.json", inputs=parts, block=block, out=out, folds=None))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def parts(folder):
    return capture(folder)


@pytest.fixture(scope="module")
def measured(folder, parts):
    """The files of a block in the middle and of the last one, by block."""
    return {block: measure(folder, parts, block) for block in ("mm_02", "mm_04")}


@pytest.fixture(params=["mm_02", "mm_04"])
def finished(request, measured):
    return measured[request.param]


def test_the_file_has_every_layer_and_reader_of_the_block(finished):
    content = read_sensitivity(finished)
    last = finished.stem == "mm_04"
    streams = ["image"] if last else ["image", "text"]
    assert content["block"] == finished.stem
    assert content["points"] == 24  # with the prompt, and with the negative one
    assert len(content["sigmas"]) == 3
    assert content["sigmas"] == sorted(content["sigmas"], reverse=True)
    assert list(content["gains"]) == streams
    assert len(content["weights"]) == (11 if last else 14)
    for layer in content["weights"].values():
        assert list(layer["errors"]) == WIDTHS
        for error in layer["errors"].values():
            assert set(error) == {"bits_per_weight", "velocity", *streams}
    assert len(content["inputs"]) == (5 if last else 8)
    for reader in content["inputs"].values():
        assert list(reader["tiers"]) == list(reader["clips"]) == ["4", "6", "8"]
        assert all(len(tier["errors"]) == 3 for tier in reader["tiers"].values())


def test_the_bits_of_the_configuration_are_in_the_file(finished):
    for name, layer in read_sensitivity(finished)["weights"].items():
        assert layer["config_bits"] == (8 if name.endswith("adaLN_modulation") else 4)


def test_the_arrays_are_the_distributions(finished):
    content = read_sensitivity(finished)
    arrays = read_sensitivity_arrays(finished, content)
    parts = ("before", "edges", "migrated", "migrated_edges", "shifted", "shifted_edges")
    assert sorted(arrays) == sorted(f"{layer}/{part}" for layer in content["distributions"] for part in parts)
    for layer in content["distributions"]:
        counts = {arrays[f"{layer}/{part}"].sum() for part in ("before", "shifted", "migrated")}
        assert len(counts) == 1


def test_the_origin_names_model_and_rows(finished, parts):
    origin = read_sensitivity(finished)["origin"]
    assert origin["block_inputs"] == [read_group_seal(part)["fingerprint"] for part in parts]
    assert "transformer.safetensors" in origin["model"]


def test_the_same_work_gives_the_same_bytes(measured, parts, tmp_path):
    again = measure(tmp_path, parts, "mm_04")
    for suffix in (".json", ".safetensors"):
        assert again.with_suffix(suffix).read_bytes() == measured["mm_04"].with_suffix(suffix).read_bytes()


def test_rules_decide_group_size_and_what_is_left_out(folder, parts, tmp_path):
    rules = [{"layers": "mm_*", "bits": 4, "group_size": 32}, {"layers": "*.attn.*", "bits": 16}]
    unrounded = [{"layers": "*", "bits": 16}]
    content = read_sensitivity(measure(tmp_path, parts, "mm_04", weights=rules, activations=unrounded))
    assert not any(".attn." in name for name in content["weights"])
    assert content["weights"]["mm_04.image.mlp.fc1"]["errors"]["4"]["bits_per_weight"] == 5
    assert len(content["inputs"]) == 5  # measured all the same


def test_another_block_is_rejected(parts, tmp_path):
    with pytest.raises(UserError, match="mm_09: the model embedded has the blocks mm_00"):
        measure(tmp_path, parts, "mm_09")


def test_rows_of_other_weights_are_rejected(folder, parts, tmp_path):
    copies = [Path(shutil.copytree(part, tmp_path / part.name)) for part in parts]
    for part in copies:
        seal = read_group_seal(part)
        inputs = seal["inputs"] | {"model": seal["inputs"]["model"] | {"transformer.safetensors": "00"}}
        write_group_seal(part, make_seal(seal["parameters"], inputs, seal["sha256"]))
    with pytest.raises(UserError, match="was made with other inputs"):
        measure(tmp_path, copies, "mm_00")


def test_the_error_of_the_velocity_is_measured_on_at_most_its_rows(finished):
    content = read_sensitivity(finished)
    assert content["velocity_points"] == min(64, content["points"])
    assert np.isfinite(list(content["gains"].values())).all()


def test_insufficient_memory_is_reported_before_anything_is_measured(folder, parts, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Namespace(total=10**6, available=10**6))
    with pytest.raises(UserError, match=r"measuring sensitivity takes about .* GB of memory, of 0\.0 GB; lower height"):
        measure(folder, parts, "mm_00")
