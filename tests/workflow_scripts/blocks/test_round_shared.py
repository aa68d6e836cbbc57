"""The layers outside the blocks, rounded with their inputs, in a file like that of a block."""

import logging
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from taqmlx.mmdit.calibration_points import read_points
from taqmlx.models import embedded
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.planning import plan
from taqmlx.planning.block_plan import list_names
from taqmlx.planning.layers import list_linears
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.reconstruction.layer_hessians import observe_layers
from taqmlx.store.block_file import read_block
from taqmlx.store.calibration import open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.mixed_bits import FORMAT
from tests.workflow_scripts.blocks.test_measure_costs import damage, write_guided_calibration, write_parameters
from workflow_scripts.blocks import round_shared

SETTINGS = {"weights": [{"layers": "*", "bits": 4, "range": "absmax"}], "bits_per_weight": None, "held_out": 0.34}
NAMES = list_names("embedded", plan.SHARED)
RULE = {"bits": 4, "group_size": 64, "symmetric": False, "range": "absmax"}


@pytest.fixture(scope="module")
def calibration(tmp_path_factory) -> Path:
    return write_guided_calibration(tmp_path_factory.mktemp("guided") / "calibration.zarr")


def round_them(folder: Path, calibration: Path, mixed: Path | None = None, **changes) -> Path:
    """Run the entry; the file."""
    params = write_parameters(folder / "params.json", "round_shared", SETTINGS | changes)
    out = folder / "adaround" / "shared.safetensors"
    out.parent.mkdir(exist_ok=True)
    round_shared.main(Namespace(params=params, calibration=calibration, mixed=mixed, out=out, folds=None))
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory, calibration) -> dict[str, Path]:
    """By engine."""
    return {
        engine: round_them(tmp_path_factory.mktemp(engine), calibration, engine=engine) for engine in ("rtn", "gptq")
    }


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    model = embedded.load_transformer()
    layers = [layer for layer in list_linears(5) if not layer.block]
    return {name: np.array(weight) for name, weight in read_weights(model, layers)[0].items()}


def test_the_file_has_exactly_the_layers_outside_the_blocks(files):
    for engine, path in files.items():
        file = read_block(path)
        assert set(file.weights) == set(NAMES)
        assert len(NAMES) == 7
        assert (file.inputs, file.biases) == ({}, {})
        assert file.sigmas.tolist() == [1.0, 0.75, 0.25]
        assert file.seal["parameters"]["engine"] == engine


def test_the_seal_is_that_of_its_own_stage(files, calibration):
    seal = read_block(files["gptq"]).seal
    assert (seal["parameters"]["stage"], seal["parameters"]["block"]) == ("round_shared", "shared")
    assert set(seal["parameters"]["layers"]) == set(NAMES)
    assert seal["inputs"] == {
        "model": embedded.file_digests(),
        "calibration": open_calibration(calibration).seal["fingerprint"],
    }


def test_the_engine_rtn_rounds_to_nearest(files, weights):
    for name, layer in read_block(files["rtn"]).weights.items():
        np.testing.assert_array_equal(layer.codes, round_to_grid(weights[name], choose_grid(weights[name], RULE)))


def test_gptq_has_a_smaller_error_on_the_layer_inputs(files, weights, calibration):
    """On all points, those it was learned from among them; far less where inputs lie in few directions."""
    model, points = embedded.load_transformer(), read_points(open_calibration(calibration))
    layers = [layer for layer in list_linears(5) if not layer.block]
    read = observe_layers(model, layers, points.take(np.arange(len(points.xs))))
    gptq, nearest = (read_block(files[engine]).weights for engine in ("gptq", "rtn"))
    ratios = {}
    for layer in layers:
        x, name = np.array(read[layer.input]).reshape(-1, weights[layer.name].shape[1]), layer.name
        errors = [
            np.square(x @ (dequantize(own[name].codes, own[name].grid) - weights[name]).T).sum()
            for own in (gptq, nearest)
        ]
        ratios[name] = errors[1] / errors[0]
    assert min(ratios.values()) >= 1
    assert min(ratios["t_embedder.mlp.layers.0"], ratios["final_layer.adaLN_modulation"]) > 10


def test_a_repeated_run_has_equal_bytes(files, tmp_path, calibration):
    again = round_them(tmp_path, calibration, engine="gptq")
    assert again.read_bytes() == files["gptq"].read_bytes()
    assert again.with_suffix(".json").read_bytes() == files["gptq"].with_suffix(".json").read_bytes()


def test_rules_of_16_bits_leave_layers_unquantized(tmp_path, calibration):
    some = [{"layers": "*", "bits": 4}, {"layers": "?_embedder*", "bits": 16}]
    found = set(read_block(round_them(tmp_path / "some", calibration, weights=some)).weights)
    assert found == {name for name in NAMES if name[1:].partition(".")[0] != "_embedder"}
    none = [{"layers": "*", "bits": 4}, *({"layers": name, "bits": 16} for name in NAMES)]
    assert read_block(round_them(tmp_path / "none", calibration, weights=none)).weights == {}


class TestSearchedBits:
    """The widths and group sizes of a search take the place of the rules'."""

    @staticmethod
    def write(path: Path) -> Path:
        chosen = {name: {"bits": 3 + place, "group_size": 128} for place, name in enumerate(NAMES[:3])}
        write_json(path, FORMAT | {"mixed": {"layers": chosen}})
        return path

    def test_searched_bits_are_used_and_in_the_seal(self, tmp_path, calibration):
        mixed = self.write(tmp_path / "mixed_bits.json")
        file = read_block(round_them(tmp_path, calibration, mixed, bits_per_weight=4.5, engine="rtn"))
        found = {name: (layer.grid.bits, layer.grid.group_size) for name, layer in file.weights.items()}
        assert found == {name: (3 + i, 128) if i < 3 else (4, 64) for i, name in enumerate(NAMES)}
        assert len(file.seal["inputs"]["mixed_bits"]) == 64

    def test_a_search_is_required_with_a_configured_size_and_only_then(self, tmp_path, calibration):
        for folder, mixed, size in (
            ("lacking", None, 4.5),
            ("surplus", self.write(tmp_path / "mixed_bits.json"), None),
        ):
            with pytest.raises(UserError, match=r"--mixed: mixed_bits\.json is needed where bits_per_weight is set"):
                round_them(tmp_path / folder, calibration, mixed, bits_per_weight=size)
            assert not (tmp_path / folder / "adaround" / "shared.safetensors").exists()


class TestRefusals:
    """What is wrong is named, and nothing is written."""

    def test_a_damaged_calibration_set_is_named(self, tmp_path):
        calibration = write_guided_calibration(tmp_path / "calibration.zarr")
        damage(calibration)
        with pytest.raises(UserError, match=r"calibration\.zarr/xs does not match its seal"):
            round_them(tmp_path, calibration)

    def test_a_group_size_that_does_not_divide_the_inputs_is_rejected(self, tmp_path, calibration, monkeypatch):
        monkeypatch.setitem(SETTINGS, "weights", [{"layers": "*", "bits": 4}])
        monkeypatch.setattr(
            round_shared,
            "overlay_bits",
            lambda rules, mixed: {
                name: rule | {"weight": rule["weight"] | {"group_size": 96}} for name, rule in rules.items()
            },
        )
        with pytest.raises(UserError, match="shared: 128 inputs are not a multiple of the group size 96"):
            round_them(tmp_path, calibration)
        assert not (tmp_path / "adaround" / "shared.safetensors").exists()

    def test_parameters_of_another_stage_are_rejected(self, tmp_path, calibration):
        params = write_parameters(tmp_path / "params.json", "pack_weights", {})
        with pytest.raises(UserError, match=r"params\.json belongs to the stage pack_weights, not round_shared"):
            round_shared.main(
                Namespace(params=params, calibration=calibration, mixed=None, out=tmp_path / "x", folds=None)
            )


def test_the_number_of_layers_is_logged(tmp_path, calibration, caplog):
    with caplog.at_level(logging.INFO, "taqmlx"):
        out = round_them(tmp_path, calibration, engine="rtn")
    assert f"7 layers outside the blocks: {out}" in caplog.messages
