"""Values of JSON and the types they fit."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pytest

from taqmlx.planning.json_types import fits
from taqmlx.planning.layer_rules import LayerRules, WeightPattern

PATTERN = {"layers": "*", "bits": 4}
RULE = {"weight": {"bits": 4}, "activation": {"bits": 8, "shift": True}}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, int),
        (1, float),
        (1.5, float),
        (True, bool),
        ("a", str),
        (None, int | None),
        ("key", int | Literal["all", "key"]),
        (3, int | Literal["all", "key"]),
        ([], Sequence[int]),
        ([[1, 2], [3]], Sequence[Sequence[int]]),
        ({"a": 1}, Mapping[str, int]),
        (PATTERN, WeightPattern),
        (PATTERN | {"group_size": "row", "symmetric": False}, WeightPattern),
        ({"mm_00.image.attn.o_proj": RULE}, LayerRules),
    ],
)
def test_a_value_fits_its_type(value, kind):
    assert fits(value, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.0, int),
        (True, int),
        (False, float),
        (1, bool),
        (1, str),
        (None, int),
        ("some", int | Literal["all", "key"]),
        (1, Literal[True]),
        ("ab", Sequence[str]),
        ([1, "a"], Sequence[int]),
        ([], Mapping[str, int]),
        ({"a": "b"}, Mapping[str, int]),
        ({"bits": 4}, WeightPattern),
        (PATTERN | {"policy": "lut"}, WeightPattern),
        (PATTERN | {"group_size": "token"}, WeightPattern),
        ([], WeightPattern),
        ({"mm_00.image.attn.o_proj": {"weight": {"bits": 4}}}, LayerRules),
    ],
)
def test_a_value_of_another_type_does_not_fit(value, kind):
    assert not fits(value, kind)
