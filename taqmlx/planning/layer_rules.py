"""Quantization rules of layers, from the configuration."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NotRequired, TypedDict, cast

UNQUANTIZED = 16
WEIGHTED = "weighted"  # range of a weight that is searched with its inputs
FLOAT16 = "float16"  # stored type of scales, zero points and biases by a rule that names none

# policies that measure step sizes at run time, so that none are stored
MEASURED_POLICIES = ("dynamic", "affine")
# channels of a token that share a measured step size
GroupSize = int | Literal["token"]


class WeightRule(TypedDict):
    """Quantization of a weight, with the configuration keys of `weights`. A 16-bit rule has no other keys."""

    bits: int
    group_size: NotRequired[int | Literal["row"]]
    symmetric: NotRequired[bool]
    range: NotRequired[str]
    scale_dtype: NotRequired[str]


class InputRule(TypedDict):
    """Quantization of a layer input, with the configuration keys of `activations`. A 16-bit rule has no other keys."""

    bits: int
    policy: NotRequired[str]
    group_size: NotRequired[GroupSize]
    range: NotRequired[str]
    shift: NotRequired[bool]
    migration: NotRequired[bool]


class WeightPattern(WeightRule):
    """Weight rule of the layers whose names match the pattern `layers`."""

    layers: str


class InputPattern(InputRule):
    """Input rule of the layers whose names match the pattern `layers`."""

    layers: str


class LayerRule(TypedDict):
    """The weight rule and the input rule of one layer."""

    weight: WeightRule
    activation: InputRule


# layer name -> rules
LayerRules = Mapping[str, LayerRule]


def read_scale_dtype(rule: Mapping[str, Any]) -> str:
    """Stored type of scales, zero points and biases by a weight rule."""
    found: str = rule.get("scale_dtype", FLOAT16)
    return found


def is_weighted(rule: WeightRule) -> bool:
    """True if the inputs of the layer are needed for the range of its weight."""
    return rule.get("range") == WEIGHTED


def search_unweighted(rule: WeightRule) -> WeightRule:
    """`rule`, with a search of the range that needs no inputs in place of a weighted one."""
    return {**rule, "range": "search"} if is_weighted(rule) else rule


def find_shared_dtype(rules: Iterable[Mapping[str, Any]]) -> str:
    """Stored type that the weight rules of all quantized layers share. Raises ValueError if they differ."""
    found = {read_scale_dtype(rule) for rule in rules if rule["bits"] != UNQUANTIZED} or {FLOAT16}
    if len(found) > 1:
        raise ValueError(f"scales are stored in several types: {', '.join(sorted(found))}")
    return found.pop()


def find_rule(rules: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The last of `rules` whose `layers` pattern matches the layer `name`, without its pattern; 16 bits if none
    matches.
    """
    matching = [rule for rule in rules if fnmatchcase(name, rule["layers"])]
    return {key: value for key, value in matching[-1].items() if key != "layers"} if matching else {"bits": UNQUANTIZED}


def find_weight_rule(rules: Sequence[WeightPattern], name: str) -> WeightRule:
    """The weight rule of the layer `name`."""
    return cast(WeightRule, find_rule(rules, name))


def find_input_rule(rules: Sequence[InputPattern], name: str) -> InputRule:
    """The input rule of the layer `name`."""
    return cast(InputRule, find_rule(rules, name))
