"""Rules of the configuration that say how layers are quantized."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

UNQUANTIZED = 16


def find_rule(rules: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """What the last of `rules` whose pattern `layers` matches the layer `name` says; without one, 16 bits."""
    matching = [rule for rule in rules if fnmatchcase(name, rule["layers"])]
    return {key: value for key, value in matching[-1].items() if key != "layers"} if matching else {"bits": UNQUANTIZED}
