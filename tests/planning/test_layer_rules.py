"""The last rule whose pattern matches a layer applies."""

from taqmlx.planning.layer_rules import find_rule

RULES = [
    {"layers": "mm_*", "bits": 4, "group_size": 64},
    {"layers": "*.mlp.fc2", "bits": 8, "group_size": 32},
    {"layers": "mm_03.*", "bits": 16},
]


def test_the_last_match_applies():
    assert find_rule(RULES, "mm_00.image.mlp.fc1") == {"bits": 4, "group_size": 64}
    assert find_rule(RULES, "mm_00.image.mlp.fc2") == {"bits": 8, "group_size": 32}
    assert find_rule(RULES, "mm_03.text.mlp.fc2") == {"bits": 16}


def test_a_layer_without_a_rule_is_not_quantized():
    assert find_rule(RULES, "context_embedder") == {"bits": 16}


def test_patterns_are_case_sensitive():
    assert find_rule(RULES, "MM_00.image.mlp.fc1") == {"bits": 16}
