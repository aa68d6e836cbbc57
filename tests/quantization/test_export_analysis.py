"""The exports hold the statistics in the layouts of earlier programs."""

import json
import shutil
from argparse import Namespace

import numpy as np
import pytest

from taqmlx.numerics.legacy_analysis import advise_layer
from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, read_plain_json, write_json
from tools.small_results.study import SIGMAS, STEPS
from workflow_scripts.multitier import export_analysis

Q, FC2 = "mm_01.image.attn.q_proj", "mm_01.image.mlp.fc2"
NAMES = {"temporal": "layer_temporal_analysis", "flat": "layer_statistics", "advice": "quantization_config"}


def export(statistics, folder):
    paths = {kind: folder / f"{name}.json" for kind, name in NAMES.items()}
    export_analysis.main(Namespace(statistics=statistics, **paths))
    return paths


@pytest.fixture(scope="module")
def paths(finished, tmp_path_factory):
    return export(finished.statistics, tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def exports(paths):
    return {kind: read_plain_json(path) for kind, path in paths.items()}


@pytest.fixture(scope="module")
def numbers(finished):
    return {name: described["per_step"] for name, described in read_json(finished.statistics)["inputs"].items()}


def test_every_linear_layer_has_an_entry_in_each(exports):
    names = {layer.name for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])}
    assert set(exports["flat"]) == set(exports["advice"]["layer_configs"]) == names
    for part in ("layer_scale_summary", "drift", "phase_ranges"):
        assert set(exports["temporal"][part]) == names


def test_layers_with_a_shared_input_agree(exports):
    assert exports["flat"][Q] == exports["flat"]["mm_01.image.attn.k_proj"]
    assert exports["flat"][Q] != exports["flat"][FC2]


def test_scales_are_absmax_values_and_described_as_such(exports, numbers):
    temporal, absmax = exports["temporal"], numbers[FC2]["absmax"]
    assert temporal["format"] == "layer_temporal_analysis_v4"
    assert temporal["layer_scale_summary"][FC2] == {
        "mean_scale": pytest.approx(np.mean(absmax)),
        "min_scale": min(absmax),
        "max_scale": max(absmax),
    }
    assert "absmax" in temporal["scale_is"]
    assert "not a step size" in temporal["scale_is"]
    assert temporal["drift"][FC2] == pytest.approx(max(absmax) / min(absmax))


def test_only_post_gelu_layers_have_a_shift(exports):
    shifts = exports["temporal"]["shift_summary"]
    assert len(shifts) == 9
    assert all(name.endswith(".mlp.fc2") for name in shifts)
    assert all(0 < own["mean_shift_magnitude"] < own["max_shift_magnitude"] for own in shifts.values())


def test_steps_have_their_sigmas_and_phases_their_ranges(exports, numbers):
    temporal = exports["temporal"]
    assert temporal["sigma_map"] == dict(zip(map(str, STEPS), SIGMAS, strict=True))
    ranges, (first, second, _) = temporal["phase_ranges"][Q], numbers["mm_01.image.attn.qkv"]["absmax"]
    assert ranges["early"]["absmax"] == max(first, second)  # sigma 1 and 0.75
    assert ranges["mid"] is None
    assert ranges["late"]["min"] == numbers["mm_01.image.attn.qkv"]["min"][2]


def test_flat_statistics_cover_all_steps(exports, finished):
    described = read_json(finished.statistics)["inputs"][FC2]
    flat, per_step = exports["flat"][FC2], described["per_step"]
    assert list(flat) == ["max", "mean", "min", "num_samples", "percentiles", "std"]
    assert (flat["min"], flat["max"]) == (min(per_step["min"]), max(per_step["max"]))
    assert flat["percentiles"]["p50"] == described["overall"]["p50"]
    assert flat["num_samples"] == sum(described["rows"]) * 512


def test_quantiles_over_all_steps_are_between_those_of_single_steps(exports, numbers):
    for key, own in (("p01", "p1"), ("p99", "p99")):
        each = numbers[FC2][own]
        assert min(each) <= exports["flat"][FC2]["percentiles"][key] <= max(each)


def test_suggested_bits_follow_the_flat_statistics_and_are_marked_as_not_runnable(exports):
    advice = exports["advice"]
    assert advice["layer_configs"] == {name: advise_layer(flat) for name, flat in exports["flat"].items()}
    assert advice["default_config"] == {"weight_bits": 4, "activation_bits": 8, "use_symmetric": False}
    assert advice["legacy"] is True
    assert "nothing here runs it" in advice["notice"]


def test_exporting_again_gives_the_same_bytes(finished, paths, tmp_path):
    again = export(finished.statistics, tmp_path)
    assert [path.read_bytes() for path in again.values()] == [path.read_bytes() for path in paths.values()]


def test_statistics_without_quantiles_of_all_steps_are_rejected(finished, tmp_path):
    old = json.loads(finished.statistics.read_text())
    for described in old["inputs"].values():
        described.pop("overall")
    write_json(tmp_path / "statistics.json", old)
    shutil.copy(finished.statistics.with_suffix(".safetensors"), tmp_path / old["arrays"]["file"])
    with pytest.raises(UserError, match="run merge_activations again"):
        export(tmp_path / "statistics.json", tmp_path)
    assert not (tmp_path / "layer_statistics.json").exists()
