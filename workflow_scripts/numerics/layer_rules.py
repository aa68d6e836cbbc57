"""Rules of the configuration that say how layers are quantized."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

UNQUANTIZED = 16


def find_rule(rules: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The last of `rules` whose pattern `layers` matches the layer `name`; without one, 16 bits."""
    matching = [rule for rule in rules if fnmatchcase(name, rule["layers"])]
    return matching[-1] if matching else {"bits": UNQUANTIZED}
