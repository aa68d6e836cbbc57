"""The file of weight costs is read as written, and rejected if it belongs to something else."""

import pytest

from taqmlx.planning.bit_choices import Choice
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.weight_costs import read_costs, write_costs

RULES = [{"layers": "*", "bits": 4, "group_size": 64, "symmetric": False, "range": "search"}]
PARAMETERS = {"stage": "measure_costs", "version": 1, "model": "embedded", "weights": RULES, "seed": 0}
COSTS = {
    "context_embedder": {Choice(2, 64): 0.1 + 0.2, Choice(2, 128): 1e-17, Choice(8, 64): 0.0},
    "final_layer.linear": {Choice(4, 64): 0.25},
}
ELEMENTS = {"context_embedder": 16384, "mm_00.image.attn.q_proj": 16384, "final_layer.linear": 8192}
RANKS = {"context_embedder": 60, "final_layer.linear": 3}
ORIGIN = {"model": {"transformer.safetensors": "0" * 64}, "calibration": "1" * 64}


@pytest.fixture
def path(tmp_path):
    write_costs(tmp_path / "weight_costs.json", PARAMETERS, COSTS, ELEMENTS, RANKS, ORIGIN)
    return tmp_path / "weight_costs.json"


def test_costs_are_read_as_written_bit_for_bit(path):
    found = read_costs(path, "embedded", RULES)
    assert found.costs == COSTS
    assert list(found.costs["context_embedder"]) == list(COSTS["context_embedder"])
    assert (found.elements, found.ranks, found.origin) == (ELEMENTS, RANKS, ORIGIN)
    assert all(isinstance(choice, Choice) for choices in found.costs.values() for choice in choices)


def test_an_unquantized_layer_has_elements_and_no_cost(path):
    found = read_costs(path, "embedded", RULES)
    assert "mm_00.image.attn.q_proj" in found.elements
    assert "mm_00.image.attn.q_proj" not in found.costs


def test_equal_costs_give_equal_bytes(path, tmp_path):
    write_costs(tmp_path / "again.json", PARAMETERS, COSTS, ELEMENTS, RANKS, ORIGIN)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_a_nan_cost_is_not_written(tmp_path):
    costs = {"context_embedder": {Choice(2, 64): float("nan")}}
    with pytest.raises(UserError, match=r"out\.json: layers\.context_embedder\.costs.* is not a finite number"):
        write_costs(tmp_path / "out.json", PARAMETERS, costs, ELEMENTS, RANKS, ORIGIN)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("model", "rules", "words"),
    [
        ("sd3-medium", RULES, 'model: "embedded" there, "sd3-medium" in the configuration'),
        ("embedded", [RULES[0] | {"range": "absmax"}], "weights: "),
    ],
)
def test_costs_of_another_model_or_other_rules_are_rejected(path, model, rules, words):
    with pytest.raises(
        UserError, match=rf"weight_costs\.json was measured by other rules \({words}.*; delete it and run measure_costs"
    ):
        read_costs(path, model, rules)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"weight_costs\.json is missing; run the rule that makes it"):
        read_costs(tmp_path / "weight_costs.json", "embedded", RULES)


def test_a_changed_file_is_named(path):
    path.write_text(path.read_text().replace("0.25", "0.24"))
    with pytest.raises(UserError, match=r"weight_costs\.json is damaged or was changed"):
        read_costs(path, "embedded", RULES)


@pytest.mark.parametrize("changes", [{"layers": [1]}, {"layers": {"x": {"elements": 1}}}, {"parameters": {}}])
def test_a_file_that_no_writer_makes_is_named(path, changes):
    write_json(path, read_json(path) | changes)
    with pytest.raises(UserError, match=r"weight_costs\.json is damaged"):
        read_costs(path, "embedded", RULES)


@pytest.mark.parametrize("key", ["layers", "parameters", "ranks", "origin"])
def test_a_file_with_a_missing_key_is_named(path, key):
    write_json(path, {name: part for name, part in read_json(path).items() if name != key})
    with pytest.raises(UserError, match=r"weight_costs\.json is damaged \(KeyError"):
        read_costs(path, "embedded", RULES)
