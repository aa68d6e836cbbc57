"""The quantization config describes every layer, with step sizes that fit the observations."""

import shutil
from types import MappingProxyType

import numpy as np
import pytest

from taqmlx.numerics import weight_grid
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.quant_config import read_quant_config
from taqmlx.store.seal import make_seal
from taqmlx.store.statistics_file import read_statistics_arrays
from tools.small_results.study import SIGMAS, write_rounded_blocks

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


def test_step_sizes_are_ranges_over_the_largest_code(finished):
    config, statistics = read_quant_config(finished.quant_config), read_json(finished.statistics)
    numbers = statistics["inputs"]
    for place, sigma in enumerate(SIGMAS):
        expected = numbers[FC1]["per_step"]["absmax"][place] / 127
        assert config.activation_step(FC1, sigma) == pytest.approx(expected, rel=1e-6)
        expected = numbers[FC2]["per_step"]["shifted_absmax"][place] / 127
        assert config.activation_step(FC2, sigma) == pytest.approx(expected, rel=1e-6)


def test_only_post_gelu_inputs_are_shifted(finished):
    config = read_quant_config(finished.quant_config)
    shifted = [name for name in config.layers if config.find_input(name).shift is not None]
    assert len(shifted) == 9  # five blocks, two streams, of which the last text stream has no MLP
    assert all(name.endswith(".mlp.fc2") for name in shifted)
    assert config.find_input(FC2).shift.shape == (512,)


def test_between_knots_the_nearest_applies_and_beyond_them_the_end(finished):
    config = read_quant_config(finished.quant_config)
    steps = [config.activation_step(FC1, sigma) for sigma in SIGMAS]
    assert [config.activation_step(FC1, sigma) for sigma in (2.0, 0.8, 0.4, 0.0)] == [
        steps[0],
        steps[1],
        *[steps[2]] * 2,
    ]


@pytest.mark.parametrize("policy", ["static", "dynamic"])
def test_every_policy_is_written(copy, policy):
    lut = read_quant_config(copy.quant_config)
    rules = [{"layers": "mm_*", "bits": 8, "policy": policy, "range": "absmax"}]
    copy.configure(activations=rules)
    copy.quantize()
    copy.write_config()
    config = read_quant_config(copy.quant_config)
    largest = max(lut.activation_step(FC2, sigma) for sigma in SIGMAS)
    assert config.activation_step(FC2, 0.5) == {"static": pytest.approx(largest), "dynamic": None}[policy]
    assert (config.find_input(FC2).shift is None) == (policy == "dynamic")


def test_the_narrower_range_clips_unshifted_inputs(copy):
    wide = read_quant_config(copy.quant_config)
    copy.configure(activations=[{"layers": "mm_*", "bits": 6, "policy": "lut", "range": "p999"}])
    copy.quantize()
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


def test_statistics_of_another_calibration_set_are_rejected(copy):
    statistics = read_json(copy.statistics)
    statistics["origin"]["calibration"] = "0" * 64
    write_json(copy.statistics, statistics)
    with pytest.raises(UserError, match=r"statistics\.json was not made from"):
        copy.write_config()


def test_the_shift_is_that_of_the_statistics(finished):
    config = read_quant_config(finished.quant_config)
    arrays = read_statistics_arrays(finished.statistics, read_json(finished.statistics))
    np.testing.assert_array_equal(config.find_input(FC2).shift, arrays[f"{FC2}/shift"])


class TestBlocks:
    """What a block's job determined stands; only the rest comes from the statistics."""

    STEPS = np.array([0.03, 0.02, 0.01], np.float32)
    LEARNED = MappingProxyType(
        {
            FC1: InputQuantizer("lut", 8, STEPS),
            FC2: InputQuantizer(
                "lut", 8, STEPS / 2, np.linspace(0, 1, 512, dtype=np.float32), np.array([4] + [1] * 511, np.int32)
            ),
        }
    )

    @pytest.fixture
    def learned(self, copy):
        """The study packed with blocks that determined the inputs of two layers."""
        self.pack(copy)
        copy.write_config()
        return copy

    def pack(self, study, inputs=LEARNED, **values):
        parameters = read_json(study.params("optimise_block"))
        study.pack(write_rounded_blocks(study.folder / "adaround", parameters, inputs=inputs, **values))

    def test_the_input_quantizers_of_blocks_are_used(self, learned):
        config = read_quant_config(learned.quant_config)
        assert config.layers[FC2]["activation"]["range"] == "learned"
        for place, sigma in enumerate(SIGMAS):
            assert config.activation_step(FC1, sigma) == self.STEPS[place]
            assert config.activation_step(FC2, sigma) == self.STEPS[place] / 2
        assert config.find_input(FC1).shift is None
        np.testing.assert_array_equal(config.find_input(FC2).shift, self.LEARNED[FC2].shift)
        np.testing.assert_array_equal(config.find_input(FC2).migration, self.LEARNED[FC2].migration)
        assert config.find_input(FC2).migration.dtype == np.int32

    def test_other_layers_follow_the_observations(self, learned, finished):
        config, before = (read_quant_config(study.quant_config) for study in (learned, finished))
        for name, entry in before.layers.items():
            if name not in self.LEARNED:
                assert config.layers[name] == entry
                assert config.activation_step(name, SIGMAS[1]) == before.activation_step(name, SIGMAS[1])

    def test_the_fingerprints_of_blocks_are_in_the_origin(self, learned):
        origin = read_json(learned.quant_config)["origin"]
        seals = {block: read_json(learned.folder / "adaround" / f"{block}.json") for block in origin["blocks"]}
        assert origin["blocks"] == {block: seal["fingerprint"] for block, seal in seals.items()}
        assert list(seals) == plan.list_units("embedded")
        assert origin["model"] == seals["mm_00"]["inputs"]["model"]

    def test_a_static_policy_has_one_learned_step_size(self, copy):
        copy.configure(activations=[{"layers": "mm_*", "bits": 8, "policy": "static"}])
        self.pack(copy, {FC1: InputQuantizer("static", 8, np.array([0.25], np.float32))})
        copy.write_config()
        config = read_quant_config(copy.quant_config)
        assert [config.activation_step(FC1, sigma) for sigma in SIGMAS] == [0.25] * 3

    def test_step_sizes_are_taken_at_the_noise_levels_of_the_statistics(self, copy):
        steps = np.arange(1, 6, dtype=np.float32)
        self.pack(copy, {FC1: InputQuantizer("lut", 8, steps)}, sigmas=[1.0, 0.9, 0.75 * (1 + 5e-7), 0.5, 0.25])
        copy.write_config()
        config = read_quant_config(copy.quant_config)
        assert [config.activation_step(FC1, sigma) for sigma in SIGMAS] == [1, 3, 5]

    def test_a_migration_of_ones_is_omitted(self, copy):
        self.pack(copy, {FC2: InputQuantizer("lut", 8, self.STEPS, None, np.ones(512, np.int32))})
        copy.write_config()
        assert read_quant_config(copy.quant_config).find_input(FC2).migration is None

    def test_a_missing_noise_level_is_named(self, copy):
        self.pack(copy, {FC1: InputQuantizer("lut", 8, self.STEPS)}, sigmas=[1.0, 0.7501, 0.25])
        with pytest.raises(UserError, match=r"mm_00\.safetensors has no step sizes at the noise level 0\.75 of"):
            copy.write_config()

    def test_other_rules_are_named(self, learned):
        learned.configure(activations=[{"layers": "mm_*", "bits": 6}])
        with pytest.raises(UserError, match=r"with other rules: mm_00.*: bits: 16 there, 6 in the configuration"):
            learned.write_config()

    def test_other_codes_than_the_packed_ones_are_named(self, learned):
        parameters = read_json(learned.params("optimise_block"))
        write_rounded_blocks(
            learned.folder / "adaround", parameters, lambda weight, grid: weight_grid.round_to_grid(-weight, grid)
        )
        with pytest.raises(
            UserError, match=r"mm_00\.\S+: the packed checkpoint's codes are not those of .*mm_00\.safet"
        ):
            learned.write_config()

    def test_another_migration_than_the_packed_one_is_named(self, learned):
        parameters = read_json(learned.params("optimise_block"))
        write_rounded_blocks(learned.folder / "adaround", parameters)
        with pytest.raises(UserError, match=rf"{FC2}: .* differ in migration"):
            learned.write_config()

    def test_blocks_of_another_model_are_rejected(self, learned):
        place = learned.quantized / "config.json"
        config = read_json(place)
        config["origin"]["model"] = {"transformer.safetensors": "0" * 64}
        write_json(place, config)
        with pytest.raises(UserError, match=r"mm_00\.safetensors and the packed checkpoint were made from different"):
            learned.write_config()

    def test_an_unnamed_block_is_named_in_the_error(self, learned):
        for suffix in ("safetensors", "json"):
            (learned.folder / "adaround" / f"mm_02.{suffix}").unlink()
        with pytest.raises(UserError, match="blocks: mm_02: named or packed, but not both"):
            learned.write_config()

    def test_two_files_of_one_block_are_rejected(self, learned):
        folder = learned.folder / "adaround"
        for suffix in ("safetensors", "json"):
            (folder / f"again.{suffix}").write_bytes((folder / f"mm_02.{suffix}").read_bytes())
        seal = read_json(folder / "again.json")
        digests = seal["sha256"] | {"again.safetensors": seal["sha256"]["mm_02.safetensors"]}
        write_json(folder / "again.json", make_seal(seal["parameters"], seal["inputs"], digests))
        with pytest.raises(UserError, match=r"again\.safetensors and .* are both of the block mm_02"):
            learned.write_config()


def test_a_rule_can_turn_off_the_shift(copy):
    copy.configure(activations=[{"layers": "mm_*", "bits": 8, "shift": False}])
    copy.quantize()
    copy.write_config()
    config = read_quant_config(copy.quant_config)
    assert config.find_input(FC2).shift is None
    expected = read_json(copy.statistics)["inputs"][FC2]["per_step"]["absmax"][0] / 127
    assert config.activation_step(FC2, SIGMAS[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("policy", ["lut", "static"])
def test_a_migration_that_no_block_determined_is_rejected(copy, policy):
    copy.configure(activations=[{"layers": "mm_*", "bits": 8, "policy": policy, "migration": True}])
    copy.quantize()
    with pytest.raises(UserError, match=r"activations: mm_00\.image\.mlp\.fc2 needs a migration, and no block file"):
        copy.write_config()
