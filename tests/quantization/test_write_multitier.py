"""Bits by layer and noise level, chosen by the rules."""

import numpy as np
import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.quant_config import read_quant_config
from taqmlx.store.sensitivity_file import write_sensitivity
from tests.quantization.multitier import ADALN, FC1, FC2, Q
from tools.small_results.sensitivity import CLIPS


def find_absmax(study, name):
    per_step = read_json(study.statistics)["inputs"][name]["per_step"]
    return np.array(per_step["shifted_absmax" if name.endswith("fc2") else "absmax"])


class TestMeasured:
    def test_bits_are_the_fewest_within_the_budget_at_the_nearest_knot(self, chooser):
        config = chooser.write(multitier_budget=40)
        assert config.find_input(FC1).bits == (4, 4, 8)
        assert config.find_input("mm_01.text.mlp.fc1").bits == 4
        assert chooser.write(multitier_budget=55).find_input(FC1).bits == (6, 6, 8)

    def test_layers_with_a_shared_input_have_equal_bits_and_step_sizes(self, chooser):
        config = chooser.write()
        for name in ("k", "v"):
            other = Q.replace("q_proj", f"{name}_proj")
            assert config.find_input(other).bits == config.find_input(Q).bits
            np.testing.assert_array_equal(config.find_input(other).steps, config.find_input(Q).steps)

    @pytest.mark.parametrize(("budget", "bits"), [(-1e6, 4), (1e6, 8)])
    def test_extreme_budgets_give_the_least_and_the_most_bits(self, chooser, budget, bits):
        config = chooser.write(multitier_budget=budget)
        assert {config.find_input(name).bits for name in config.layers} == {bits, 16}

    def test_with_unchanged_bits_layers_are_unchanged(self, chooser):
        before, config = read_quant_config(chooser.study.quant_config), chooser.write(multitier_budget=1e6)
        assert config.layers == before.layers
        assert config.arrays.keys() == before.arrays.keys()
        for key, array in before.arrays.items():
            np.testing.assert_array_equal(config.arrays[key], array)

    def test_magnitudes_do_not_matter(self, chooser):
        """One and the same errors give one and the same bits, however far the inputs' ranges are apart."""
        config = chooser.write(multitier_budget=40)
        ranges = {name: find_absmax(chooser.study, name).max() for name in (FC1, FC2)}
        assert ranges[FC1] > 1.2 * ranges[FC2] or ranges[FC2] > 1.2 * ranges[FC1]
        assert config.find_input(FC1).bits == config.find_input(FC2).bits


class TestThresholds:
    def test_a_shifted_layer_is_compared_after_the_shift(self, chooser):
        unshifted = np.array(read_json(chooser.study.statistics)["inputs"][FC2]["per_step"]["absmax"])
        shifted = find_absmax(chooser.study, FC2)
        assert np.all(shifted < unshifted)
        between = float((shifted.max() + unshifted.min()) / 2)
        assert shifted.max() < between < unshifted.min()
        limits = {"plain": [1e-3, 2e-3], "shifted": [between, 2 * between]}
        config = chooser.write(multitier_rule="thresholds", multitier_thresholds=limits)
        assert config.find_input(FC2).bits == 4
        assert config.find_input(FC1).bits == 8

    def test_each_noise_level_is_compared_by_its_own_absmax(self, chooser):
        absmax = find_absmax(chooser.study, FC1)
        order = np.sort(absmax)
        limits = [float(order[:2].mean()), float(order[1:].mean())]
        config = chooser.write(
            multitier_rule="thresholds", multitier_thresholds={"plain": limits, "shifted": [5.0, 8.0]}
        )
        expected = [4 if value < limits[0] else 6 if value < limits[1] else 8 for value in absmax]
        assert sorted(expected) == [4, 6, 8]
        assert config.find_input(FC1).bits == tuple(expected)

    def test_the_shift_is_kept(self, chooser):
        config = chooser.write(multitier_rule="thresholds")
        before = read_quant_config(chooser.study.quant_config)
        shifted = [name for name in config.layers if config.find_input(name).shift is not None]
        assert len(shifted) == 9
        for name in shifted:
            np.testing.assert_array_equal(config.find_input(name).shift, before.find_input(name).shift)

    def test_step_sizes_cover_a_share_of_the_range(self, chooser):
        limits = {"plain": [1e6, 2e6], "shifted": [1e-6, 1e6]}
        config = chooser.write(multitier_rule="thresholds", multitier_thresholds=limits)
        expected = find_absmax(chooser.study, FC1) * CLIPS[4] / 7
        np.testing.assert_allclose(config.find_input(FC1).steps, expected, rtol=1e-5)
        expected = find_absmax(chooser.study, FC2) * CLIPS[6] / 31
        np.testing.assert_allclose(config.find_input(FC2).steps, expected, rtol=1e-5)
        assert config.layers[FC1]["activation"]["range"] == "clipped"


class TestPolicies:
    def configure(self, copy, **values):
        rule = {"layers": "mm_*", "bits": 8, "policy": "lut", "range": "absmax", "migration": False} | values
        copy.study.configure(activations=[rule, {"layers": "*adaLN_modulation", "bits": 16}])
        copy.study.quantize()
        copy.study.write_config()

    def test_a_static_step_size_becomes_a_table_where_bits_differ(self, copy):
        self.configure(copy, policy="static")
        step = read_quant_config(copy.study.quant_config).activation_step(FC1, 0.5)
        config = copy.write(multitier_budget=40)
        entry = config.layers[FC1]["activation"]
        assert (entry["policy"], entry["bits"]) == ("lut", [4, 4, 8])
        expected = [*find_absmax(copy.study, FC1)[:2] * CLIPS[4] / 7, step]
        np.testing.assert_allclose(config.find_input(FC1).steps, expected, rtol=1e-5)
        uniform = config.layers["mm_01.text.mlp.fc1"]["activation"]
        assert (uniform["policy"], uniform["bits"]) == ("static", 4)
        absmax = find_absmax(copy.study, "mm_01.text.mlp.fc1").max()
        assert uniform["step"] == pytest.approx(absmax * CLIPS[4] / 7, rel=1e-5)

    def test_a_dynamic_layer_keeps_its_bits_where_they_would_differ(self, copy):
        self.configure(copy, policy="dynamic")
        config = copy.write(multitier_budget=40)
        dynamic = {"policy": "dynamic", "group_size": "token"}
        assert config.layers[FC1]["activation"] == dynamic | {"bits": 8}
        assert config.layers["mm_01.text.mlp.fc1"]["activation"] == dynamic | {"bits": 4}
        assert "no table of bits" in config.content["analysis"]["layers"][FC1]["reason"]

    def test_a_layer_with_few_bits_gets_no_more(self, copy):
        self.configure(copy, bits=6)
        config = copy.write(multitier_budget=1e6)
        assert config.find_input(FC1).bits == 6
        np.testing.assert_array_equal(
            config.find_input(FC1).steps, read_quant_config(copy.study.quant_config).find_input(FC1).steps
        )

    def test_unquantized_layers_stay_unquantized(self, chooser):
        config = chooser.write(multitier_budget=-1e6)
        for name in (ADALN, "context_embedder", "final_layer.linear"):
            assert config.layers[name]["activation"] == {"policy": "none", "bits": 16}


class TestRefusals:
    def test_the_config_is_not_replaced(self, copy):
        for name in ("quant_config.json", "quant_config.safetensors"):
            copy.out = copy.folder / name
            with pytest.raises(UserError, match="is the config that is read; give it another name"):
                copy.write()

    def test_statistics_of_another_run_are_rejected(self, copy):
        write_json(copy.study.statistics, read_json(copy.study.statistics) | {"steps": [1, 2, 3]})
        with pytest.raises(UserError, match=r"was not made with .*statistics\.json; run write_quant_config again"):
            copy.write()

    def test_all_blocks_are_needed(self, chooser):
        chooser.sensitivity.pop()
        with pytest.raises(UserError, match="the sensitivity of mm_04 is missing"):
            chooser.write()

    def test_sensitivity_of_other_weights_is_rejected(self, chooser):
        for path in chooser.sensitivity:
            content = {key: value for key, value in read_json(path).items() if key != "checksum"}
            content["origin"]["model"]["transformer.safetensors"] = "0" * 64
            write_sensitivity(path, content, {})
        with pytest.raises(UserError, match=r"mm_00\.json is of other weights than .*quant_config\.json"):
            chooser.write()

    def test_a_config_with_several_bits_is_rejected_as_the_source(self, copy):
        copy.write(multitier_budget=40)
        copy.study.quant_config, copy.out = copy.out, copy.folder / "again.json"
        with pytest.raises(UserError, match=r"has several numbers of bits for .*; start from quant_config\.json"):
            copy.write()
