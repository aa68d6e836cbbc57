"""The ladder: every rung has its own configuration and differs from its neighbour by what its title says."""

import pytest

from taqmlx.planning import block_plan, configuration, ladder, plan, variants

SCHEMA = configuration.load_schema()


def complete(rung, **values):
    return configuration.complete(variants.change(values, rung), SCHEMA)


def resolve(rung, layer):
    """The rules of one layer on a rung."""
    parameters = plan.select_parameters("optimise_block", complete(rung), [])
    return block_plan.select_block(parameters, layer.split(".")[0])["layers"][layer]


@pytest.mark.parametrize("rung", ladder.RUNGS)
def test_a_rung_changes_known_keys_to_valid_values(rung):
    assert complete(rung).keys() == configuration.complete({}, SCHEMA).keys()


def test_keys_that_a_rung_does_not_name_follow_the_configuration():
    assert complete("w4a8_joint", adaround_iterations=7)["adaround_iterations"] == 7


def test_full_precision_quantizes_nothing():
    for layer in ("mm_02.image.mlp.fc2", "mm_02.text.adaLN_modulation"):
        assert resolve(ladder.FULL_PRECISION, layer) == {"weight": {"bits": 16}, "activation": {"bits": 16}}


@pytest.mark.parametrize(("rung", "group_size"), [("row", "row"), ("g128", 128), ("g64", 64), ("g32", 32)])
def test_some_rungs_quantize_weights_only_by_group_size(rung, group_size):
    rules = resolve(f"w4a16_rtn_{rung}", "mm_00.image.attn.q_proj")
    assert (rules["weight"]["bits"], rules["weight"]["group_size"]) == (4, group_size)
    assert rules["activation"] == {"bits": 16}


@pytest.mark.parametrize(("rung", "policy"), [("static", "static"), ("sigma", "lut"), ("dynamic", "dynamic")])
def test_some_rungs_change_the_policy_on_the_same_weights(rung, policy):
    rules = resolve(f"w4a8_rtn_{rung}", "mm_00.image.mlp.fc2")
    assert rules["activation"]["policy"] == policy
    assert not rules["activation"]["shift"]
    assert rules["weight"] == resolve("w4a16_rtn_g64", "mm_00.image.mlp.fc2")["weight"]


def test_some_rungs_quantize_inputs_in_groups_of_channels():
    groups, tokens = (
        resolve(f"w4a8_rtn_{name}", "mm_00.image.mlp.fc2")["activation"] for name in ("groups", "dynamic")
    )
    assert groups == tokens | {"group_size": 32}
    assert tokens["group_size"] == "token"


def test_some_rungs_have_4_bits_in_adaln_layers():
    for rung, bits in (("w4a16_rtn_g64", 8), ("w4a16_adaln4_rtn", 4), ("w4a16_adaln4_gptq", 4), ("w4a16_gptq", 8)):
        assert resolve(rung, "mm_02.text.adaLN_modulation")["weight"]["bits"] == bits
        assert resolve(rung, "mm_02.text.mlp.fc1")["weight"]["bits"] == 4


@pytest.mark.parametrize("rung", ladder.RUNGS)
def test_the_bits_of_a_rung_are_those_of_its_rules(rung):
    assert complete(rung, bits_per_weight=4.5)["bits_per_weight"] is None


@pytest.mark.parametrize(
    ("lower", "upper", "changed"),
    [
        ("w4a8_rtn_dynamic", "w4a8_rtn_groups", {"activations"}),
        ("w4a16_rtn_g64", "w4a16_adaln4_rtn", {"weights"}),
        ("w4a16_adaln4_rtn", "w4a16_adaln4_gptq", {"engine"}),
        ("w4a16_adaln4_gptq", "w4a16_gptq", {"weights"}),
        ("w4a8_rtn_sigma", "w4a8_gptq", {"engine"}),
        ("w4a8_gptq", "w4a8_separate", {"engine", "adaround_start", "reconstruction"}),
        ("w4a8_separate", "w4a8_joint", {"reconstruction"}),
        ("w4a8_joint", "w4a8_shift", {"activations"}),
        ("w4a8_shift", "w4a8_migration", {"activations"}),
        ("w4a8_shift", "w4a8_from_gptq", {"adaround_start"}),
        ("w4a8_gptq", "w4a8_gptq_separate", {"engine", "reconstruction"}),
        ("w4a8_gptq_separate", "w4a8_gptq_joint", {"reconstruction"}),
        ("w4a8_gptq_joint", "w4a8_from_gptq", {"activations"}),
        ("w4a8_from_gptq", "w4a8_gptq_migration", {"activations"}),
        ("w4a8_from_gptq", "w4a8_sequential", {"block_inputs"}),
        ("w4a8_rtn_sigma", "w4a4_rtn_sigma", {"activations"}),
        ("w4a8_rtn_sigma", "w4a8_rtn_bias", {"bias_correction"}),
        ("w4a8_rtn_sigma", "w4a8_rtn_scale", {"folds"}),
        ("w16a8_sigma", "w16a8_scale", {"folds"}),
        ("w4a8_from_gptq", "w4a8_smoothing", {"folds"}),
        ("w4a8_from_gptq", "w4a8_permutation", {"folds"}),
        ("w4a8_from_gptq", "w4a8_rotation", {"folds"}),
        ("w4a8_from_gptq", "w4a8_joint_dynamic", {"activations"}),
        ("w4a4_separate", "w4a4_joint", {"reconstruction"}),
    ],
)
def test_one_thing_changes_at_a_time(lower, upper, changed):
    below, above = complete(lower), complete(upper)
    assert {key for key in below if below[key] != above[key]} <= changed
    assert any(below[key] != above[key] for key in changed)


@pytest.mark.parametrize(("rung", "base"), [pair for pair in ladder.BASES.items() if pair[0] in ladder.RUNGS])
def test_a_gain_is_that_of_one_remedy(rung, base):
    """At most two keys differ: an engine and its start, or another way of learning."""
    below, above = complete(base), complete(rung)
    changed = {key for key in below if below[key] != above[key]}
    assert changed <= {"engine", "adaround_start", "reconstruction"} or len(changed) == 1
