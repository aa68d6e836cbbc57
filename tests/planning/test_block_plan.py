"""The parameters of a block's job, and conflicts with finished blocks."""

import json

import pytest

from taqmlx.planning import block_plan, configuration, plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.seal import make_seal

BLOCKS = plan.list_block_names("embedded")


def stage_parameters(stage="optimise_block", **changes):
    config = configuration.complete({"engine": "rtn"} | changes, configuration.load_schema())
    return plan.select_parameters(stage, config, [])


def select(block, **changes):
    return block_plan.select_block(stage_parameters(**changes), block)


def test_a_block_has_the_rules_of_its_linears():
    layers = select("mm_00")["layers"]
    assert len(layers) == 14
    assert all(name.startswith("mm_00.") for name in layers)
    weight, activation = layers["mm_00.text.mlp.fc1"]["weight"], layers["mm_00.text.mlp.fc1"]["activation"]
    assert (weight["bits"], weight["group_size"]) == (4, 64)
    assert (activation["policy"], activation["bits"], activation["group_size"]) == ("affine", 8, 32)
    assert layers["mm_00.image.adaLN_modulation"] == {"weight": weight, "activation": {"bits": 16}}


def test_shared_has_the_rules_of_the_layers_outside_the_blocks():
    parameters = block_plan.select_block(stage_parameters("round_shared"), "shared")
    assert parameters["block"] == "shared"
    assert set(parameters["layers"]) == {name for name in all_names() if not name.startswith("mm_")}
    assert {rules["weight"]["bits"] for rules in parameters["layers"].values()} == {4}


def all_names():
    return [layer.name for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])]


def test_every_linear_belongs_to_a_block_or_to_shared():
    names = [name for unit in plan.list_units("embedded") for name in block_plan.list_names("embedded", unit)]
    assert sorted(names) == sorted(all_names())
    assert set(block_plan.resolve_layers(stage_parameters())["layers"]) == set(names)


def test_the_last_block_has_fewer_linears():
    assert len(select("mm_04")["layers"]) == 11


def test_the_parameters_do_not_contain_patterns():
    narrow = [{"layers": f"{block}.*", "bits": 4} for block in BLOCKS]
    assert select("mm_02", weights=narrow) == select("mm_02", weights=[{"layers": "mm_0?.*", "bits": 4}])


@pytest.mark.parametrize("key", ["weights", "activations"])
@pytest.mark.parametrize("pattern", ["mm_03.*", "mm_03.text.mlp.fc2"])
def test_a_rule_for_one_block_changes_its_parameters_only(key, pattern):
    rules = stage_parameters()[key]
    changed = {key: [*rules, {"layers": pattern, "bits": 6}]}
    assert [block for block in BLOCKS if select(block, **changed) != select(block)] == ["mm_03"]


def test_a_setting_of_another_engine_changes_nothing():
    assert select("mm_00", adaround_iterations=7) == select("mm_00")
    assert select("mm_00", engine="adaround", adaround_iterations=7) != select("mm_00", engine="adaround")


def write_finished(results, block, **changes):
    path = results / "adaround" / f"{block}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(make_seal(select(block, **changes), {}, {})))
    return path


def find_conflicts(results, **changes):
    return list(block_plan.find_conflicts(results / "adaround", stage_parameters(**changes)))


def test_blocks_of_the_same_parameters_do_not_conflict(tmp_path):
    for block in BLOCKS:
        write_finished(tmp_path, block)
    assert find_conflicts(tmp_path) == []


def test_without_finished_blocks_there_is_no_conflict(tmp_path):
    assert find_conflicts(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "gptq"}, 'engine: "rtn" there, "gptq" in the configuration'),
        ({"held_out": 0.25}, "held_out: 0.125 there, 0.25 in"),
        ({"seed": 3}, "seed: 0 there, 3 in"),
        ({"weights": [{"layers": "*", "bits": 5}]}, "layers.mm_03.image.adaLN_modulation.weight.bits: 4 there, 5 in"),
        ({"bits_per_weight": 3.5}, "bits_per_weight: 4.5 there, 3.5 in"),
        ({"bits_per_weight": None}, "bits_per_weight: 4.5 there, null in"),
    ],
)
def test_blocks_of_other_parameters_are_named_with_the_difference(tmp_path, changes, words):
    for block in ("mm_00", "mm_03"):
        write_finished(tmp_path, block)
    conflicts = find_conflicts(tmp_path, **changes)
    assert len(conflicts) == 2
    assert str(tmp_path / "adaround" / "mm_03") in conflicts[1]
    assert words in conflicts[1]
    assert "\n" not in conflicts[1]


def test_a_conflict_of_rules_names_the_layer_and_the_value(tmp_path):
    write_finished(tmp_path, "mm_01")
    rules = [*stage_parameters()["weights"], {"layers": "mm_01.text.mlp.fc2", "bits": 6}]
    (conflict,) = find_conflicts(tmp_path, weights=rules)
    assert "layers.mm_01.text.mlp.fc2.weight.bits: 4 there, 6 in the configuration" in conflict


def test_a_rule_for_one_block_conflicts_with_that_block_only(tmp_path):
    for block in BLOCKS:
        write_finished(tmp_path, block)
    rules = [*stage_parameters()["weights"], {"layers": "mm_02.*", "bits": 6}]
    (conflict,) = find_conflicts(tmp_path, weights=rules)
    assert "mm_02" in conflict


def test_a_seal_of_another_block_is_named(tmp_path):
    write_finished(tmp_path, "mm_01").rename(tmp_path / "adaround" / "mm_02.json")
    (conflict,) = find_conflicts(tmp_path)
    assert conflict.endswith("mm_02.json belongs to block mm_01; delete it and run again")


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"parameters": 3}', b"\xff\xfe"])
def test_a_damaged_seal_is_named(tmp_path, content):
    write_finished(tmp_path, "mm_04").write_bytes(content)
    (conflict,) = find_conflicts(tmp_path)
    assert "mm_04" in conflict


RULES = [
    {"layers": "mm_*", "bits": 4},
    {"layers": "*.text.*", "bits": 5},
    {"layers": "mm_03.*.fc2", "bits": 6},
    {"layers": "*adaLN_modulation", "bits": 16},
]


def test_the_values_on_a_command_line_give_the_parameters_of_the_block():
    config = configuration.complete({"weights": RULES, "activations": RULES}, configuration.load_schema())
    for block in BLOCKS:
        values = json.loads(block_plan.encode_block(config, block))
        parameters = plan.select_parameters("optimise_block", values, [])
        assert block_plan.select_block(parameters, block) == select(block, **config)


def test_they_change_only_with_the_keys_that_the_block_reads():
    config = configuration.complete({}, configuration.load_schema())
    changed = configuration.complete({"weights": RULES[:1] + RULES[2:], "steps": 50}, configuration.load_schema())
    same = configuration.complete({"weights": RULES[:1] + RULES[3:]}, configuration.load_schema())
    encode = block_plan.encode_block
    assert [b for b in BLOCKS if encode(changed, b) != encode(same, b)] == ["mm_03"]
    assert encode(config, "mm_00") != encode(same, "mm_00")


def find_source_conflicts(results, **changes):
    config = configuration.complete({}, configuration.load_schema()) | changes
    stages = [plan.select_parameters(name, config, ["a"]) for name in ("gather_calibration", "capture_blocks")]
    return list(block_plan.find_source_conflicts(results, stages))


def write_sources(results):
    config = configuration.complete({}, configuration.load_schema())
    (results / "params").mkdir()
    for name in ("gather_calibration", "capture_blocks"):
        parameters = plan.select_parameters(name, config, ["a"])
        (results / "params" / f"{name}.json").write_text(json.dumps(parameters))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"capture_points": 64}, "capture_blocks (capture_points: 256 there, 64 in the configuration)"),
        ({"selected_steps": 5}, "gather_calibration (selected_steps: 25 there, 5 in the configuration)"),
    ],
)
def test_a_change_of_the_inputs_of_finished_blocks_is_a_conflict(tmp_path, changes, words):
    write_sources(tmp_path)
    assert find_source_conflicts(tmp_path, **changes) == []
    write_finished(tmp_path, "mm_01")
    assert find_source_conflicts(tmp_path) == []
    (conflict,) = find_source_conflicts(tmp_path, **changes)
    assert f"{tmp_path / 'adaround'} was made from other {words}" in conflict


def test_only_learning_has_iterations_and_rows():
    learned = {"engine": "adaround", "adaround_iterations": 50, "adaround_batch": 8}
    assert [block_plan.count_iterations(learned | {"reconstruction": name}) for name in block_plan.PHASE_COUNTS] == [
        50,
        100,
    ]
    assert block_plan.count_rows(learned) == 8
    for engine in ("rtn", "gptq"):
        assert (block_plan.count_iterations({"engine": engine}), block_plan.count_rows({"engine": engine})) == (0, 0)
