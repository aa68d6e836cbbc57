"""Rounding costs measured on a small calibration set: content, sizes and ranks, and rejected inputs."""

import logging
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import zarr

from taqmlx.models.catalogue import find_model
from taqmlx.planning import configuration, plan
from taqmlx.planning.bit_choices import list_choices
from taqmlx.planning.layers import list_linears
from taqmlx.store.calibration import open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.seal import make_seal, read_group_seal, write_group_seal
from taqmlx.store.weight_costs import read_costs
from tools.small_results import study as small
from workflow_scripts.blocks import measure_costs

GUIDANCE = 3.0
# Four layers, so that measuring them is quick: one of a block, an adaLN layer, an embedder and the final layer.
NAMES = ("t_embedder.mlp.layers.0", "mm_01.image.attn.o_proj", "final_layer.adaLN_modulation", "final_layer.linear")
RULES = [{"layers": "*", "bits": 16}, *({"layers": name, "bits": 4, "range": "absmax"} for name in NAMES)]
SETTINGS = {"weights": RULES, "search_points": 6, "search_probes": 3, "seed": 2}


def write_guided_calibration(path: Path, seed: int = 0) -> Path:
    """The small calibration set, of trajectories under guidance."""
    small.write_calibration(path, seed)
    group, seal = zarr.open_group(path), read_group_seal(path)
    group.attrs["cfg_scale"] = GUIDANCE
    write_group_seal(path, make_seal(seal["parameters"] | {"cfg_scale": GUIDANCE}, seal["inputs"], seal["sha256"]))
    return path


def write_parameters(path: Path, stage: str, settings: dict) -> Path:
    """The parameters of a stage, from the default configuration with these `settings`."""
    config = configuration.complete(settings, configuration.load_schema())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plan.select_parameters(stage, config, []))
    return path


def damage(path: Path) -> None:
    """Change a value of a calibration set."""
    group = zarr.open_group(path)
    group["xs"][0, 0, 0, 0] = group["xs"][0, 0, 0, 0] + 1


@pytest.fixture(scope="session")
def guided_calibration(tmp_path_factory) -> Path:
    """A calibration set that is not to be changed."""
    return write_guided_calibration(tmp_path_factory.mktemp("guided") / "calibration.zarr")


def measure(folder: Path, calibration: Path, **changes) -> Path:
    """Run the entry; what it wrote."""
    params = write_parameters(folder / "params.json", "measure_costs", SETTINGS | changes)
    out = folder / "weight_costs.json"
    measure_costs.main(Namespace(params=params, calibration=calibration, out=out, folds=None))
    return out


@pytest.fixture(scope="module")
def found(tmp_path_factory, guided_calibration) -> Path:
    return measure(tmp_path_factory.mktemp("found"), guided_calibration)


def read(path: Path):
    return read_costs(path, "embedded", configuration.complete(SETTINGS, configuration.load_schema())["weights"])


def test_every_choice_of_every_requested_layer_has_a_cost(found):
    costs = read(found)
    layers = {layer.name: layer for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])}
    assert set(costs.costs) == set(NAMES)
    assert set(costs.elements) == set(layers)
    assert costs.elements["mm_01.image.attn.o_proj"] == 128 * 128
    assert costs.elements["t_embedder.mlp.layers.0"] == 128 * 256
    for name, choices in costs.costs.items():
        assert list(choices) == list_choices({"t_embedder.mlp.layers.0": 256}.get(name, 128))
        assert all(np.isfinite(cost) and cost > 0 for cost in choices.values())
        by_bits = [choices[choice] for choice in choices if choice.group_size == 64]
        assert by_bits[0] > 100 * by_bits[-1]  # 2 bits against 8


def test_ranks_are_those_of_the_layer_inputs(found):
    costs = read(found)
    assert set(costs.ranks) == {
        "t_embedder.mlp.layers.0",
        "mm_01.image.attn.o_proj",
        "modulation",
        "final_layer.linear",
    }
    assert all(1 <= rank <= 256 for rank in costs.ranks.values())
    assert costs.ranks["t_embedder.mlp.layers.0"] <= 3  # as many as there are noise levels
    assert costs.ranks["modulation"] < 20 < costs.ranks["final_layer.linear"]


def test_the_origin_is_the_model_and_the_calibration_set(found, guided_calibration):
    origin = read(found).origin
    assert origin["model"] == find_model("embedded").file_digests()
    assert origin["calibration"] == open_calibration(guided_calibration).seal["fingerprint"]


def test_a_repeated_measurement_has_equal_bytes(found, tmp_path, guided_calibration, caplog):
    with caplog.at_level(logging.INFO, "taqmlx"):
        again = measure(tmp_path, guided_calibration)
    assert again.read_bytes() == found.read_bytes()
    assert f"4 layers, 3 gradients: {again}" in caplog.messages


def test_costs_do_not_depend_on_sharing_a_gradient(found, tmp_path, guided_calibration, monkeypatch):
    """Of a large model not all changes fit in memory at once."""
    monkeypatch.setattr(measure_costs, "limit_group", lambda weights: 1)
    apart, together = read(measure(tmp_path, guided_calibration)), read(found)
    assert apart.ranks == together.ranks
    for name, choices in together.costs.items():
        assert apart.costs[name] == pytest.approx(choices, rel=1e-4)


class TestRefusals:
    """The file or the key is named, and nothing is written."""

    def refuse(self, words, folder, calibration, **changes):
        with pytest.raises(UserError, match=words):
            measure(folder, calibration, **changes)
        assert not (folder / "weight_costs.json").exists()

    def test_rules_without_a_layer_to_search_are_rejected(self, tmp_path, guided_calibration):
        rules = [{"layers": "*", "bits": 16}]
        self.refuse("weights: all layers have 16 bits, .* lower some", tmp_path, guided_calibration, weights=rules)

    def test_a_missing_calibration_set_is_named(self, tmp_path):
        self.refuse(r"nowhere\.zarr.* is missing", tmp_path, tmp_path / "nowhere.zarr")

    def test_a_damaged_calibration_set_is_named(self, tmp_path):
        calibration = write_guided_calibration(tmp_path / "calibration.zarr")
        damage(calibration)
        self.refuse(r"calibration\.zarr/xs does not match its seal; delete .* and run again", tmp_path, calibration)

    def test_parameters_of_another_stage_are_rejected(self, tmp_path, guided_calibration):
        params = write_parameters(tmp_path / "params.json", "search_bits", {})
        with pytest.raises(UserError, match=r"params\.json belongs to the stage search_bits, not measure_costs"):
            measure_costs.main(
                Namespace(params=params, calibration=guided_calibration, out=tmp_path / "out.json", folds=None)
            )
