"""The reader of the quantization config accepts its own format and explains every rejection."""

import copy
import shutil

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, write_json, write_plain_json
from taqmlx.store.quant_config import SCHEMA, read_quant_config
from taqmlx.store.tensors import write_tensors

WEIGHT = {"bits": 4, "group_size": 64, "mode": "affine"}
LAYERS = {
    "lut": {
        "policy": "lut",
        "bits": 8,
        "range": "learned",
        "steps": "lut/steps",
        "shift": "lut/shift",
        "migration": "lut/migration",
    },
    "static": {"policy": "static", "bits": 6, "range": "p999", "step": 0.5, "shift": None, "migration": None},
    "dynamic": {"policy": "dynamic", "bits": 8},
    "none": {"policy": "none", "bits": 16},
}
ARRAYS = {
    "lut/steps": np.array([0.3, 0.2, 0.1], np.float32),
    "lut/shift": np.array([1, -1], np.float32),
    "lut/migration": np.array([1, 5], np.int32),
}


@pytest.fixture
def content(tmp_path):
    """A small config, its two files written."""
    write_tensors(tmp_path / "quant_config.safetensors", ARRAYS)
    write_tensors(tmp_path / "quantized" / "model.safetensors", {"a": np.zeros(2)})
    files = {"weights": "quantized/model.safetensors", "arrays": "quant_config.safetensors"}
    named = {part: {"file": file, "sha256": hash_file(tmp_path / file)} for part, file in files.items()}
    return {
        "format": "time-aware-quant-config",
        "version": 2,
        "model": "embedded",
        "sigmas": [1.0, 0.5, 0.1],
        "weights": named["weights"] | {"config": "quantized/config.json", "bits_per_weight": 4.5},
        "arrays": named["arrays"],
        "layers": {name: {"path": f"blocks.{name}", "weight": WEIGHT, "activation": LAYERS[name]} for name in LAYERS},
        "realization": {"weights": "packed", "activations": "simulated"},
        "origin": {},
    }


@pytest.fixture
def path(tmp_path, content):
    write_json(tmp_path / "quant_config.json", content)
    return tmp_path / "quant_config.json"


def test_the_schema_is_valid():
    Draft202012Validator.check_schema(SCHEMA)


def test_step_sizes_are_looked_up_by_layer_and_sigma(path):
    config = read_quant_config(path)
    steps = [config.activation_step("lut", sigma) for sigma in (5.0, 0.8, 0.6, 0.31, 0.29, 0.0)]
    np.testing.assert_allclose(steps, [0.3, 0.3, 0.2, 0.2, 0.1, 0.1])
    assert config.activation_step("static", 0.7) == 0.5
    assert config.activation_step("dynamic", 0.7) is None
    assert config.activation_step("none", 0.7) is None


def test_step_sizes_can_be_interpolated_between_sigmas(path):
    config = read_quant_config(path)
    steps = [config.activation_step("lut", sigma, "interpolated") for sigma in (5.0, 1.0, 0.75, 0.3, 0.1, 0.0)]
    np.testing.assert_allclose(steps, [0.3, 0.3, 0.25, 0.15, 0.1, 0.1], rtol=1e-6)
    assert config.activation_step("static", 0.7, "interpolated") == 0.5


def test_all_step_sizes_of_a_layer_can_be_read(path):
    config = read_quant_config(path)
    np.testing.assert_array_equal(config.find_input("lut").steps, ARRAYS["lut/steps"])
    np.testing.assert_array_equal(config.find_input("static").steps, [0.5])
    assert [config.find_input(name).steps for name in ("dynamic", "none")] == [None] * 2


def test_bits_are_one_number_or_one_per_sigma(path, content):
    assert [read_quant_config(path).find_input(name).bits for name in LAYERS] == [8, 6, 8, 16]
    set_layer(content, "lut", bits=[8, 4, 6])
    write_json(path, content)
    config = read_quant_config(path)
    assert config.find_input("lut").bits == (8, 4, 6)
    assert config.activation_step("lut", 0.5) == pytest.approx(0.2)
    # half way between 0.2 x 7 and 0.1 x 31, on the grid of 4 bits, which is nearer by a hair
    assert config.activation_step("lut", 0.3 + 1e-9, "interpolated") == pytest.approx((0.2 * 7 + 0.1 * 31) / 2 / 7)


def test_shifts_and_migrations_are_looked_up_by_layer(path):
    config = read_quant_config(path)
    np.testing.assert_array_equal(config.find_input("lut").shift, [1, -1])
    np.testing.assert_array_equal(config.find_input("lut").migration, [1, 5])
    others = [config.find_input(name) for name in ("static", "dynamic", "none")]
    assert [(other.shift, other.migration) for other in others] == [(None, None)] * 3


def test_files_are_found_relative_to_the_config(path, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, moved, ignore=shutil.ignore_patterns("elsewhere"))
    assert read_quant_config(moved / path.name).weights == moved / "quantized" / "model.safetensors"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"format": "per_timestep_quant_config_v4"}, "has format per_timestep_quant_config_v4.*not a step size"),
        ({"format": "per_timestep_quant_config_v3"}, "has format per_timestep_quant_config_v3.*not a step size"),
        ({"format": "lut_v1"}, "has format lut_v1.*not a step size"),
        ({"format": "unheard of"}, "has format unheard of"),
        ({}, "has format None"),
        ([], "has format None"),
        ({"format": "time-aware-quant-config", "version": 1}, "has version 1, and this program reads 2"),
    ],
)
def test_other_formats_and_versions_are_rejected_by_name(tmp_path, found, words):
    write_plain_json(tmp_path / "x.json", found)
    with pytest.raises(UserError, match=words):
        read_quant_config(tmp_path / "x.json")


def set_layer(content, name, **values):
    content["layers"][name]["activation"] = content["layers"][name]["activation"] | values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("sigmas"), "'sigmas' is a required property"),
        (lambda content: content.update(surprise=1), "'surprise' was unexpected"),
        (lambda content: content["arrays"].update(file="/etc/passwd"), "arrays.file"),
        (lambda content: set_layer(content, "static", step=0), "layers.static.activation"),
        (lambda content: set_layer(content, "dynamic", bits=9), "layers.dynamic.activation"),
        (lambda content: set_layer(content, "lut", step=0.1), "layers.lut.activation"),
        (lambda content: set_layer(content, "lut", bits=[8, 4]), "one number of bits, or one for each of the 3 sigmas"),
        (lambda content: set_layer(content, "lut", bits=[8, 4, 16]), "layers.lut.activation"),
        (lambda content: set_layer(content, "lut", bits=[]), "layers.lut.activation"),
        (lambda content: set_layer(content, "static", bits=[6, 6, 6]), "layers.static.activation"),
        (lambda content: set_layer(content, "dynamic", bits=[8, 8, 8]), "layers.dynamic.activation"),
        (lambda content: set_layer(content, "lut", steps="absent"), "the array absent is not in"),
        (lambda content: set_layer(content, "lut", migration="absent"), "the array absent is not in"),
        (lambda content: set_layer(content, "lut", migration="lut/shift"), "needs integers of at least 1"),
        (lambda content: set_layer(content, "static", range="guessed"), "layers.static.activation"),
        (lambda content: content["layers"]["static"]["activation"].pop("migration"), "layers.static.activation"),
        (lambda content: content["sigmas"].pop(), "needs a step size above zero for each of the 2 sigmas"),
        (lambda content: content["weights"].update(sha256="0" * 64), "model.safetensors is not the file"),
        (lambda content: content["arrays"].update(sha256="0" * 64), "quant_config.safetensors is not the file"),
    ],
)
def test_a_damaged_config_is_rejected_with_the_position(path, content, change, words):
    changed = copy.deepcopy(content)
    change(changed)
    write_json(path, changed)
    with pytest.raises(UserError, match=words):
        read_quant_config(path)


@pytest.mark.parametrize("step", [0, -0.1, np.nan, np.inf])
def test_a_step_size_of_zero_is_rejected(path, content, step):
    file = path.parent / "quant_config.safetensors"
    write_tensors(file, ARRAYS | {"lut/steps": np.array([0.3, step, 0.1], np.float32)})
    content["arrays"]["sha256"] = hash_file(file)
    write_json(path, content)
    with pytest.raises(UserError, match="needs a step size above zero for each of the 3 sigmas"):
        read_quant_config(path)


@pytest.mark.parametrize("file", ["quant_config.safetensors", "quantized/model.safetensors"])
def test_a_missing_file_is_named(path, file):
    (path.parent / file).unlink()
    with pytest.raises(UserError, match=f"{file}, named in .* is missing"):
        read_quant_config(path)
