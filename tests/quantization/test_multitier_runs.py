"""A config with several bit widths per layer runs and explains its choices."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import predict_velocity
from taqmlx.mmdit.packed import bind_packed
from taqmlx.models.catalogue import find_model
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.store.packed_checkpoint import read_packed
from taqmlx.store.quant_config import read_quant_config
from taqmlx.store.statistics_file import read_statistics_arrays
from taqmlx.store.tensors import read_tensors, write_tensors
from tests.quantization.multitier import ADALN, FC1, LAYERS
from tools.small_results.sensitivity import CLIPS
from tools.small_results.study import SIGMAS


class TestRuns:
    def predict(self, path, sigma=0.75, lookup="nearest"):
        """The velocity at a noise level of the model quantized as the config says."""
        model, config = find_model("embedded"), read_quant_config(path)
        transformer = model.load_transformer()
        linears = bind_packed(transformer, LAYERS, LAYERS, read_packed(config.weights.parent), config, lookup)
        latents = mx.array(np.random.default_rng(0).standard_normal((2, *model.LATENT_SHAPE)).astype(np.float32))
        conditions = [part[0] for part in model.encode_prompts(["a red circle"])]
        levels = mx.full(2, 1000 * sigma), mx.arange(2)
        return np.array(predict_velocity(transformer, linears.at(sigma), latents, *conditions, *levels))

    @pytest.mark.parametrize("lookup", ["nearest", "interpolated"])
    def test_equal_bits_at_every_noise_level_are_like_one_number_of_bits(self, copy, lookup):
        path, content = copy.study.quant_config, read_json(copy.study.quant_config)
        expected = self.predict(path, 0.6, lookup)
        for entry in content["layers"].values():
            if entry["activation"]["policy"] == "lut":
                entry["activation"]["bits"] = [8] * len(SIGMAS)
        write_json(path, content)
        np.testing.assert_array_equal(self.predict(path, 0.6, lookup), expected)

    def test_fewer_bits_change_the_velocity_only_at_their_noise_levels(self, chooser):
        chooser.write(multitier_budget=40)  # mm_01.text.mlp.fc1 has 4 bits everywhere
        content = read_json(chooser.out)
        content["layers"]["mm_01.text.mlp.fc1"] = read_json(chooser.study.quant_config)["layers"]["mm_01.text.mlp.fc1"]
        steps = read_quant_config(chooser.study.quant_config).find_input("mm_01.text.mlp.fc1").steps
        arrays = read_tensors(chooser.out.with_suffix(".safetensors")) | {"mm_01.text.mlp.fc1/steps": steps}
        write_tensors(chooser.out.with_suffix(".safetensors"), arrays)
        content["arrays"]["sha256"] = hash_file(chooser.out.with_suffix(".safetensors"))
        write_json(chooser.out, content)
        for sigma, is_equal in ((1.0, False), (0.75, False), (0.25, True)):
            before, after = (self.predict(path, sigma) for path in (chooser.study.quant_config, chooser.out))
            assert np.array_equal(before, after) == is_equal

    def test_fewer_bits_cost_more(self, chooser):
        exact, errors = self.predict(chooser.study.quant_config), []
        for budget in (-1e6, 40, 1e6):
            chooser.write(multitier_budget=budget)
            errors.append(np.square(self.predict(chooser.out) - exact).sum())
        assert errors[0] >= errors[1] > errors[2] == 0

    def test_the_named_files_are_found_relative_to_the_config(self, chooser):
        config = chooser.write()
        assert config.weights.resolve() == (chooser.study.quantized / "model.safetensors").resolve()
        assert not Path(config.content["weights"]["file"]).is_absolute()

    def test_the_source_config_is_kept(self, copy):
        paths = [copy.study.quant_config.with_suffix(suffix) for suffix in (".json", ".safetensors")]
        before = [path.read_bytes() for path in paths]
        copy.write()
        assert [path.read_bytes() for path in paths] == before

    def test_writing_again_gives_the_same_bytes(self, chooser):
        paths = [chooser.out, chooser.out.with_suffix(".safetensors")]
        chooser.write()
        before = [path.read_bytes() for path in paths]
        chooser.write()
        assert [path.read_bytes() for path in paths] == before


class TestAnalysis:
    def test_phases_need_the_most_bits_of_their_noise_levels(self, chooser):
        analysis = chooser.write(multitier_budget=40).content["analysis"]
        assert analysis["phases"] == {"early": [0.7, 1.0], "mid": [0.3, 0.7], "late": [0.0, 0.3]}
        assert analysis["layers"][FC1]["phases"] == {"early": 4, "mid": None, "late": 8}
        assert analysis["layers"][ADALN]["phases"] == {"early": 16, "mid": None, "late": 16}

    @pytest.mark.parametrize(("budget", "bits"), [(20, 2), (21, 4), (35, 4), (60, 6), (61, 8), (500, 8)])
    def test_the_suggested_weight_bits_are_the_fewest_of_four_widths(self, chooser, budget, bits):
        layers = chooser.write(weight_budget=budget).content["analysis"]["layers"]
        assert {layers[name]["weight_bits"] for name in (FC1, ADALN)} == {bits}
        assert layers["context_embedder"]["weight_bits"] is None

    def test_clipping_ranges_are_the_measured_ones(self, chooser):
        layers = chooser.write().content["analysis"]["layers"]
        assert layers[FC1]["clip"] == {
            str(bits): {"share": clip, "inside_percent": pytest.approx(99)} for bits, clip in CLIPS.items()
        }

    def test_the_rule_and_its_limit_are_named(self, chooser):
        analysis = chooser.write(multitier_budget=33).content["analysis"]
        assert (analysis["rule"], analysis["budget_db"]) == ("measured", 33)
        limits = {"plain": [2.0, 3.0], "shifted": [1.0, 4.0]}
        analysis = chooser.write(multitier_rule="thresholds", multitier_thresholds=limits).content["analysis"]
        assert (analysis["rule"], analysis["thresholds"]) == ("thresholds", limits)
        assert "budget_db" not in analysis

    def test_the_summary_counts_the_decisions(self, chooser):
        config = chooser.write(multitier_budget=40)
        rounded = [
            np.broadcast_to(config.find_input(n).bits, 3) for n in config.layers if config.find_input(n).bits != 16
        ]
        summary = config.content["analysis"]["summary"]
        assert summary["total_layers"] == len(rounded) == 57
        assert [summary[f"total_a{bits}"] for bits in (4, 6, 8)] == [
            int((np.array(rounded) == b).sum()) for b in (4, 6, 8)
        ]
        assert len(summary["switching_layers"]) == sum(np.ptp(bits) > 0 for bits in rounded)
        assert summary["always_a4"] == ["mm_01.text.mlp.fc1"]

    def test_the_log_has_the_shares(self, chooser, caplog):
        with caplog.at_level("INFO", logger="taqmlx"):
            chooser.write(multitier_budget=1e6)
        assert "A4 0.0 %, A6 0.0 %, A8 100.0 % of 171 decisions, 8.00 bits in the mean; 0 of 57 layers" in caplog.text

    def test_outlier_channels_are_reported_and_change_nothing(self, copy):
        """At every step, not at the first alone; and by more than that 1 % of the channels exceed 99 %."""
        before = copy.write(
            multitier_rule="thresholds", multitier_thresholds={"plain": [1e6, 2e6], "shifted": [5.0, 8.0]}
        )
        assert before.content["analysis"]["summary"]["smoothquant_layers"] == []
        statistics = read_json(copy.study.statistics)
        arrays = read_statistics_arrays(copy.study.statistics, statistics)
        arrays["mm_01.image.mlp.fc1/maximum"][2, 5] = 1e4  # the last step only
        file = copy.study.statistics.with_suffix(".safetensors")
        write_tensors(file, arrays)
        write_json(copy.study.statistics, statistics | {"arrays": {"file": file.name, "sha256": hash_file(file)}})
        copy.study.write_config()
        after = copy.write(
            multitier_rule="thresholds", multitier_thresholds={"plain": [1e6, 2e6], "shifted": [5.0, 8.0]}
        )
        found = after.content["analysis"]["layers"][FC1]
        assert (found["smoothquant_candidate"], found["smoothquant_levels"]) == (True, 1)
        assert after.content["analysis"]["summary"]["smoothquant_layers"] == [FC1]
        assert after.find_input(FC1).bits == before.find_input(FC1).bits
