"""Mixed bits are nearer to full precision than uniform ones of their size, as measured; what cannot be is refused."""

import logging
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from tests.test_measure_sensitivity import capture, measure
from workflow_scripts import configuration, plan, search_bits
from workflow_scripts.mmdit import input_sensitivity
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.models import embedded
from workflow_scripts.numerics.layer_rules import find_rule
from workflow_scripts.store.conditioning import write_conditioning
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import read_json, write_json

PROMPTS = ["a red circle", "a large blue square on a black background"]
NAMES = [layer.name for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])]
# Few layers, so that measuring them is quick: two of each block.
RULES = [
    {"layers": "*", "bits": 16},
    {"layers": "mm_*.image.attn.o_proj", "bits": 4},
    {"layers": "mm_*.image.mlp.fc2", "bits": 4, "group_size": 32},
]


def select(**changes) -> plan.Parameters:
    settings = {"weights": RULES, "trajectories": 2, "ladder_pictures": 4, "ladder_steps": 4, "mixed_bits_budget": 4}
    return plan.select_parameters(
        "search_bits", configuration.complete(settings | changes, configuration.load_schema()), PROMPTS
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the sensitivity of every block and the prompts' encodings."""
    folder = tmp_path_factory.mktemp("results")
    parts = capture(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_sensitivity, "CLIPS", (1.0,))  # inputs are of no interest here
        for block in plan.list_blocks("embedded"):
            measure(folder, parts, block, weights=RULES)
    cs, cs_pooled = (np.array(part) for part in embedded.encode_prompts(PROMPTS))
    path = folder / "conditioning.safetensors"
    write_conditioning(
        path, path.with_suffix(".json"), select(), embedded.file_digests(), zip(cs, cs_pooled, strict=True)
    )
    return folder


def search(folder: Path, out: Path, **changes) -> dict:
    """Run the entry; what it wrote."""
    write_json(out.with_name("params.json"), select(**changes))
    search_bits.main(
        Namespace(
            params=out.with_name("params.json"),
            sensitivity=sorted((folder / "sensitivity").glob("*.json")),
            conditioning=folder / "conditioning.safetensors",
            out=out,
        )
    )
    return read_json(out)


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory) -> dict:
    return search(folder, tmp_path_factory.mktemp("found") / "mixed_bits.json")


def test_mixed_bits_beat_uniform_ones_that_take_no_less(found):
    """As predicted, and as the pictures say. The uniform ones are 3 bits: 3.5 and 4 with scales and biases."""
    uniform, mixed = found["uniform"], found["mixed"]
    assert uniform["bits"] == 3
    assert uniform["bits_per_weight"] == pytest.approx((3.5 * 1 + 4 * 4) / 5)  # fc2 has four times the weights
    assert mixed["bits_per_weight"] <= found["budget"] == 4
    assert found["bits_per_weight"] == mixed["bits_per_weight"]
    assert mixed["predicted"] < uniform["predicted"]
    assert mixed["latent_snr_db"]["median"] > uniform["latent_snr_db"]["median"]


def test_more_bits_are_nearer(found, folder, tmp_path):
    more = search(folder, tmp_path / "more.json", mixed_bits_budget=7)
    assert more["mixed"]["predicted"] < 0.1 * found["mixed"]["predicted"]
    assert more["mixed"]["latent_snr_db"]["median"] > found["mixed"]["latent_snr_db"]["median"] + 10
    ratios = more["mixed"]["latent_snr_db"]
    assert set(ratios) == {"median", "mean", "p5", "worst"}
    assert ratios["worst"] <= ratios["p5"] <= ratios["median"]


def test_the_rules_are_a_configuration_with_just_these_bits(found):
    rules, bits = found["rules"], found["mixed"]["layers"]
    assert configuration.complete({"weights": rules}, configuration.load_schema())["weights"] == rules
    own = select()["weights"]
    wanted = {name: find_rule(own, name) for name in NAMES}
    wanted |= {name: wanted[name] | {"bits": width} for name, width in bits.items()}
    assert {name: find_rule(rules, name) for name in NAMES} == wanted
    assert len(bits) == 10


def test_what_was_found_is_logged(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "workflow_scripts"):
        found = search(folder, tmp_path / "logged.json", mixed_bits_budget=5)
    for name in ("uniform", "mixed"):
        line = next(line for line in caplog.messages if line.startswith(name))
        assert f"{found[name]['bits_per_weight']:.3f} bits per weight" in line
        assert f"measured {found[name]['latent_snr_db']['median']:.2f} dB" in line


def test_a_budget_below_the_least_possible_is_refused_with_it(folder, tmp_path):
    """The least, all 2 bits, is 2.9 with scales and biases."""
    with pytest.raises(UserError, match=r"mixed_bits_budget: 2\.5 bits per weight are too few, .* 2\.9 is the least"):
        search(folder, tmp_path / "refused.json", mixed_bits_budget=2.5)
    assert not (tmp_path / "refused.json").exists()


def test_rules_other_than_those_measured_are_refused(folder, tmp_path):
    others = [*RULES, {"layers": "mm_02.image.mlp.fc2", "bits": 4, "group_size": 64}]
    with pytest.raises(UserError, match=r"of mm_02 was measured by other rules: mm_02\.image\.mlp\.fc2: group_size"):
        search(folder, tmp_path / "refused.json", weights=others)


def test_a_configuration_without_quantized_layers_is_refused(folder, tmp_path):
    contents = {"mm_00": {"parameters": {"layers": {}}, "weights": {}}}
    with pytest.raises(UserError, match="all layers of the blocks have 16 bits"):
        search_bits.list_choices(contents, [])


def test_encodings_of_other_prompts_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="was made with other parameters"):
        search(folder, tmp_path / "refused.json", negative_prompt="blurry")
