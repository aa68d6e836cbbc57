"""The deliverable says how every layer is quantized, with step sizes that fit what was observed."""

import shutil

import numpy as np
import pytest

from tests.quantization.conftest import SIGMAS
from workflow_scripts import plan
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import read_json, write_json
from workflow_scripts.store.quant_config import read_quant_config
from workflow_scripts.store.statistics_file import read_statistics_arrays

FC1, FC2, ADALN = "mm_01.image.mlp.fc1", "mm_01.image.mlp.fc2", "mm_01.image.adaLN_modulation"


@pytest.fixture
def copy(finished, tmp_path):
    """A finished study to change."""
    folder = tmp_path / "moved"
    shutil.copytree(finished.folder, folder)
    return type(finished)(folder)


def test_every_linear_layer_is_described(finished):
    config = read_quant_config(finished.quant_config)
    layers = list_linears(*plan.MODEL_BLOCKS["embedded"])
    assert {name: entry["path"] for name, entry in config.layers.items()} == {
        layer.name: layer.path for layer in layers
    }
    assert config.layers[FC1]["weight"] == {"bits": 4, "group_size": 64, "mode": "affine"}
    assert config.layers["context_embedder"]["weight"] == {"bits": 16, "group_size": None, "mode": None}
    assert config.layers[ADALN]["activation"] == {"policy": "none", "bits": 16}


def test_steps_are_ranges_over_the_largest_code(finished):
    config, statistics = read_quant_config(finished.quant_config), read_json(finished.statistics)
    numbers = statistics["inputs"]
    for place, sigma in enumerate(SIGMAS):
        expected = numbers[FC1]["per_step"]["absmax"][place] / 127
        assert config.activation_step(FC1, sigma) == pytest.approx(expected, rel=1e-6)
        expected = numbers[FC2]["per_step"]["shifted_absmax"][place] / 127
        assert config.activation_step(FC2, sigma) == pytest.approx(expected, rel=1e-6)


def test_only_what_comes_out_of_gelu_is_shifted(finished):
    config = read_quant_config(finished.quant_config)
    shifted = [name for name in config.layers if config.activation_shift(name) is not None]
    assert len(shifted) == 9  # five blocks, two streams, of which the last text stream has no MLP
    assert all(name.endswith(".mlp.fc2") for name in shifted)
    assert config.activation_shift(FC2).shape == (512,)


def test_between_knots_the_nearest_holds_and_beyond_them_the_end(finished):
    config = read_quant_config(finished.quant_config)
    steps = [config.activation_step(FC1, sigma) for sigma in SIGMAS]
    assert [config.activation_step(FC1, sigma) for sigma in (2.0, 0.8, 0.4, 0.0)] == [
        steps[0],
        steps[1],
        *[steps[2]] * 2,
    ]


@pytest.mark.parametrize("policy", ["static", "dynamic"])
def test_other_policies(copy, policy):
    lut = read_quant_config(copy.quant_config)
    rules = [{"layers": "mm_*", "bits": 8, "policy": policy, "range": "absmax"}]
    copy.configure(activations=rules)
    copy.write_config()
    config = read_quant_config(copy.quant_config)
    largest = max(lut.activation_step(FC2, sigma) for sigma in SIGMAS)
    assert config.activation_step(FC2, 0.5) == {"static": pytest.approx(largest), "dynamic": None}[policy]
    assert (config.activation_shift(FC2) is None) == (policy == "dynamic")


def test_the_narrower_range_clips_what_is_not_shifted(copy):
    wide = read_quant_config(copy.quant_config)
    copy.configure(activations=[{"layers": "mm_*", "bits": 6, "policy": "lut", "range": "p999"}])
    copy.write_config()
    config = read_quant_config(copy.quant_config)
    numbers = read_json(copy.statistics)["inputs"][FC1]["per_step"]
    expected = max(abs(numbers["p0.1"][0]), abs(numbers["p99.9"][0])) / 31
    assert config.activation_step(FC1, SIGMAS[0]) == pytest.approx(expected, rel=1e-6)
    assert config.activation_step(FC1, SIGMAS[0]) < wide.activation_step(FC1, SIGMAS[0]) * 127 / 31
    # After a shift by channel the quantiles of the whole are not known; the entry says what was used.
    assert config.layers[FC2]["activation"]["range"] == "absmax"


def test_results_can_be_moved(finished, copy):
    assert read_quant_config(copy.quant_config).weights == copy.quantized / "model.safetensors"
    assert str(finished.folder) not in copy.quant_config.read_text()


def test_a_second_run_gives_the_same_bytes(finished, copy):
    copy.write_config()
    assert copy.quant_config.read_bytes() == finished.quant_config.read_bytes()


def test_statistics_of_another_calibration_set_are_refused(copy):
    statistics = read_json(copy.statistics)
    statistics["origin"]["calibration"] = "0" * 64
    write_json(copy.statistics, statistics)
    with pytest.raises(UserError, match=r"statistics\.json was not made from"):
        copy.write_config()


def test_the_shift_is_that_of_the_statistics(finished):
    config = read_quant_config(finished.quant_config)
    arrays = read_statistics_arrays(finished.statistics, read_json(finished.statistics))
    np.testing.assert_array_equal(config.activation_shift(FC2), arrays[f"{FC2}/shift"])
