"""Rules of the configuration that say how layers are quantized."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NotRequired, TypedDict

UNQUANTIZED = 16

# The channels of a token that share a dynamic step size
GroupSize = int | Literal["token"]


class WeightRule(TypedDict):
    """How a weight is quantized; the keys of `weights` in the configuration. A rule of 16 bits may have no others."""

    bits: int
    group_size: NotRequired[int | Literal["row"]]
    symmetric: NotRequired[bool]
    range: NotRequired[str]


class InputRule(TypedDict):
    """How what a layer reads is quantized; the keys of `activations`. A rule of 16 bits may have no others."""

    bits: int
    policy: NotRequired[str]
    group_size: NotRequired[GroupSize]
    range: NotRequired[str]
    shift: NotRequired[bool]
    migration: NotRequired[bool]


class LayerRule(TypedDict):
    """Both of one layer."""

    weight: WeightRule
    activation: InputRule


# By layer name
LayerRules = Mapping[str, LayerRule]


def find_rule(rules: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """What the last of `rules` whose pattern `layers` matches the layer `name` says; without one, 16 bits."""
    matching = [rule for rule in rules if fnmatchcase(name, rule["layers"])]
    return {key: value for key, value in matching[-1].items() if key != "layers"} if matching else {"bits": UNQUANTIZED}
