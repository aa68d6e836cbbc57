"""The last rule whose pattern matches a layer holds."""

from taqmlx.planning.layer_rules import find_rule

RULES = [
    {"layers": "mm_*", "bits": 4, "group_size": 64},
    {"layers": "*.mlp.fc2", "bits": 8, "group_size": 32},
    {"layers": "mm_03.*", "bits": 16},
]


def test_the_last_match_holds():
    assert find_rule(RULES, "mm_00.image.mlp.fc1") == {"bits": 4, "group_size": 64}
    assert find_rule(RULES, "mm_00.image.mlp.fc2") == {"bits": 8, "group_size": 32}
    assert find_rule(RULES, "mm_03.text.mlp.fc2") == {"bits": 16}


def test_what_no_rule_names_is_left_alone():
    assert find_rule(RULES, "context_embedder") == {"bits": 16}


def test_patterns_mind_capitals():
    assert find_rule(RULES, "MM_00.image.mlp.fc1") == {"bits": 16}
