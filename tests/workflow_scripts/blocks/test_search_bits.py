"""The bits of all layers are the best within the size, as an exhaustive search finds; invalid inputs are rejected."""

import itertools
import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from taqmlx.planning import configuration, plan
from taqmlx.planning.bit_choices import Choice, list_choices
from taqmlx.planning.layer_rules import find_rule
from taqmlx.planning.layers import list_linears
from taqmlx.planning.stages import SearchBits
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.mixed_bits import overlay_bits, read_mixed_bits
from taqmlx.store.weight_costs import write_costs
from workflow_scripts.blocks import search_bits

NAMES = [layer.name for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])]
# Few layers, so that everything can be tried: three, of which one is twice as wide.
QUANTIZED = ("mm_00.image.attn.q_proj", "mm_02.text.adaLN_modulation", "final_layer.linear")
RULES = [{"layers": "*", "bits": 16}, *({"layers": name, "bits": 4} for name in QUANTIZED)]
ELEMENTS = {name: 1000 * (1 + (name == QUANTIZED[1])) if name in QUANTIZED else 10 for name in NAMES}
PLAIN = 16 * sum(count for name, count in ELEMENTS.items() if name not in QUANTIZED)
TOTAL = sum(ELEMENTS.values())
ORIGIN = {"model": {"transformer.safetensors": "0" * 64}, "calibration": "1" * 64}


def select(stage="search_bits", **changes) -> plan.Parameters:
    config = configuration.complete({"weights": RULES, "bits_per_weight": 6} | changes, configuration.load_schema())
    return plan.select_parameters(stage, config, [])


def draw_costs(seed: int = 0) -> dict[str, dict[Choice, float]]:
    """Errors that fall with the bits, over some orders of magnitude."""
    rng = np.random.default_rng(seed)
    return {
        name: {
            choice: float(10.0 ** rng.uniform(-4, -1) * 4.0**-choice.bits * (1 + choice.group_size / 256))
            for choice in list_choices(128)
        }
        for name in QUANTIZED
    }


def search(folder: Path, costs=None, measured=(), **changes) -> dict:
    """Run the entry on made-up costs, `measured` by the rules of these settings; what it wrote."""
    write_json(folder / "params.json", select(**changes))
    parameters = select("measure_costs", **(changes | dict(measured)))
    write_costs(folder / "costs.json", parameters, costs or draw_costs(), ELEMENTS, {"final_layer.linear": 7}, ORIGIN)
    out = folder / "mixed_bits.json"
    search_bits.main(Namespace(params=folder / "params.json", costs=folder / "costs.json", out=out))
    return read_json(out)


def count_bits(layers: dict[str, dict]) -> float:
    """Bits per weight over all linear layers, of what was chosen for some."""
    chosen = sum(Choice(**choice).bits_per_weight * ELEMENTS[name] for name, choice in layers.items())
    return (PLAIN + chosen) / TOTAL


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits_per_weight", [5, 6, 8])
def test_the_choice_is_that_of_an_exhaustive_search(tmp_path, seed, bits_per_weight):
    costs = draw_costs(seed)
    found = search(tmp_path, costs, bits_per_weight=bits_per_weight)
    best = min(
        sum(costs[name][choice] for name, choice in zip(QUANTIZED, chosen, strict=True))
        for chosen in itertools.product(list_choices(128), repeat=len(QUANTIZED))
        if count_bits({n: c._asdict() for n, c in zip(QUANTIZED, chosen, strict=True)}) <= bits_per_weight
    )
    layers = found["mixed"]["layers"]
    assert found["mixed"]["predicted"] == pytest.approx(best, rel=1e-9)
    assert found["mixed"]["predicted"] == pytest.approx(
        sum(costs[name][Choice(**choice)] for name, choice in layers.items())
    )
    assert found["mixed"]["bits_per_weight"] == pytest.approx(count_bits(layers))
    assert found["mixed"]["bits_per_weight"] <= found["budget"] == bits_per_weight


def test_the_best_uniform_choice_is_beside_it(tmp_path):
    costs = draw_costs()
    found = search(tmp_path, costs, bits_per_weight=6)
    sums = {
        choice: sum(own[choice] for own in costs.values())
        for choice in list_choices(128)
        if count_bits(dict.fromkeys(QUANTIZED, choice._asdict())) <= 6
    }
    best = min(sums, key=sums.get)
    assert found["uniform"]["layers"] == dict.fromkeys(QUANTIZED, best._asdict())
    assert found["uniform"]["predicted"] == pytest.approx(sums[best])
    assert found["mixed"]["predicted"] < found["uniform"]["predicted"]


def test_a_larger_size_predicts_a_smaller_error(tmp_path):
    predicted = [search(tmp_path, bits_per_weight=size)["mixed"]["predicted"] for size in (4.5, 5, 6, 8, 16)]
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[-1] < 0.01 * predicted[0]


def test_without_a_size_the_bits_are_those_of_the_rules(tmp_path):
    """4 bits in groups of 64 where the rules say so, 16 in all other layers."""
    found = search(tmp_path, bits_per_weight=None)
    assert found["budget"] == pytest.approx((PLAIN + 4.5 * (TOTAL - PLAIN / 16)) / TOTAL)
    assert found["uniform"]["bits_per_weight"] <= found["budget"] + 1e-9
    assert found["mixed"]["bits_per_weight"] <= found["budget"] + 1e-9
    assert found["mixed"]["predicted"] <= found["uniform"]["predicted"]


def test_the_rules_configure_exactly_these_choices(tmp_path):
    found = search(tmp_path)
    rules, chosen = found["rules"], found["mixed"]["layers"]
    assert configuration.complete({"weights": rules}, configuration.load_schema())["weights"] == rules
    wanted = {name: find_rule(select()["weights"], name) for name in NAMES}
    wanted = {name: rule | chosen.get(name, {}) for name, rule in wanted.items()}
    assert {name: find_rule(rules, name) for name in NAMES} == wanted
    assert set(chosen) == set(QUANTIZED)


def test_blocks_use_the_choices_for_their_layers(tmp_path):
    found = search(tmp_path)
    rules = {name: {"weight": {"bits": 4, "group_size": 64, "range": "search"}, "activation": {}} for name in QUANTIZED}
    overlaid = overlay_bits(rules, read_mixed_bits(tmp_path / "mixed_bits.json"))
    assert {name: rule["weight"] for name, rule in overlaid.items()} == {
        name: {"range": "search"} | choice for name, choice in found["mixed"]["layers"].items()
    }


def test_ranks_and_origin_of_the_costs_are_kept(tmp_path):
    found = search(tmp_path)
    assert (found["ranks"], found["origin"]) == ({"final_layer.linear": 7}, ORIGIN)
    assert found["parameters"] == select()


def test_the_result_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "taqmlx"):
        found = search(tmp_path)
    for name in ("uniform", "mixed"):
        line = next(line for line in caplog.messages if line.startswith(name))
        assert f"{found[name]['bits_per_weight']:.3f} bits per weight" in line
        assert f"predicted {-10 * np.log10(found[name]['predicted']):.2f} dB" in line
    assert f"3 layers in {len(found['rules'])} rules" in caplog.messages[-1]


def test_a_size_below_the_smallest_possible_is_rejected_with_a_working_cure(tmp_path):
    """The least, all 2 bits in groups of 128, is 2.25 with scales and zero points, beside what has 16 bits."""
    least = (PLAIN + 2.25 * (TOTAL - PLAIN / 16)) / TOTAL
    cure = np.ceil(least * 100) / 100
    with pytest.raises(
        UserError, match=rf"bits_per_weight: 2\.25 bits per weight are too few: the minimum, .* is {least:.3g};"
    ) as said:
        search(tmp_path, bits_per_weight=2.25)
    assert f"raise it to {cure:g} or more" in str(said.value)
    assert not (tmp_path / "mixed_bits.json").exists()
    assert set(map(str, search(tmp_path, bits_per_weight=cure)["mixed"]["layers"])) == set(QUANTIZED)


def test_costs_measured_with_other_rules_are_rejected(tmp_path):
    """Whatever differs in them."""
    others = [*RULES, {"layers": "final_layer.linear", "bits": 4, "range": "absmax"}]
    with pytest.raises(UserError, match=r"costs\.json was measured by other rules \(weights.*run measure_costs again"):
        search(tmp_path, measured={"weights": others})
    with pytest.raises(UserError, match=r"measured by other rules \(model: \"sd3-medium\" there, \"embedded\" in"):
        search(tmp_path, measured={"model": "sd3-medium"})


def test_costs_that_are_missing_or_of_another_version_are_named(tmp_path):
    search(tmp_path)
    content = read_json(tmp_path / "costs.json")
    run = Namespace(params=tmp_path / "params.json", costs=tmp_path / "costs.json", out=tmp_path / "again.json")
    write_json(tmp_path / "costs.json", content | {"version": 0})
    with pytest.raises(UserError, match=r"costs\.json"):
        search_bits.main(run)
    (tmp_path / "costs.json").unlink()
    with pytest.raises(UserError, match=r"costs\.json is missing"):
        search_bits.main(run)


def test_layers_that_mflux_joins_get_one_choice():
    """Of all assignments with one choice for both, the best within the size; without the layout each has its own."""
    o_proj, fc2 = "uni_00.unified.attn.o_proj", "uni_00.unified.mlp.fc2"
    names, rng = (o_proj, fc2, "uni_00.unified.mlp.fc1"), np.random.default_rng(0)
    costs = {
        name: {c: float(rng.uniform(0.5, 2) * scale * 4.0**-c.bits) for c in list_choices(128)}
        for name, scale in zip(names, (100, 1, 3), strict=True)
    }
    elements = {o_proj: 1000, fc2: 4000, names[2]: 4000}
    rules = {name: {"bits": 4, "group_size": 64} for name in names}
    parameters = SearchBits(model="flux-schnell", weights=[{"layers": "*"} | rules[o_proj]], bits_per_weight=4.5)
    free = search_bits.search(parameters, rules, costs, elements)["mixed"]
    joined = search_bits.search(replace(parameters, layout="mflux"), rules, costs, elements)["mixed"]
    assert free["layers"][o_proj] != free["layers"][fc2]
    assert joined["layers"][o_proj] == joined["layers"][fc2]
    best = min(
        costs[o_proj][one] + costs[fc2][one] + costs[names[2]][other]
        for one, other in itertools.product(list_choices(128), repeat=2)
        if 5 * one.bits_per_weight + 4 * other.bits_per_weight <= 9 * 4.5
    )
    assert joined["predicted"] == pytest.approx(best)
    assert joined["bits_per_weight"] <= 4.5


def test_the_layout_is_a_parameter_only_if_it_is_another():
    assert "layout" not in select()
    fitting = {"model": "flux-schnell", "scale_dtype": "bfloat16", "cfg_scale": 1, "evaluation_cfg": 1}
    assert select(layout="mflux", **fitting)["layout"] == "mflux"
