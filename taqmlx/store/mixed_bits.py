"""Bits and group sizes chosen by the search: `<results>/mixed_bits.json`.

`uniform` and `mixed` have `bits_per_weight` over all linear layers, `predicted`, the relative squared error of the
guided velocity, and `layers`: `bits` and `group_size` by layer name. `budget` is the requested size, `rules` are the
corresponding configuration rules, `ranks` the number of directions that hold 99.9 % of each layer input's energy.
"""

from pathlib import Path
from typing import cast

from taqmlx.planning import plan
from taqmlx.planning.documents import MixedBits
from taqmlx.planning.layer_rules import LayerRules
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json

FORMAT = {"format": "mixed-bits", "version": 2}


def read_mixed_bits(path: Path) -> MixedBits:
    """Read `path`. Raises UserError if it is missing, damaged, or of another format or version."""
    return cast(MixedBits, read_json(path, **FORMAT))


def overlay_bits(rules: LayerRules, mixed: MixedBits | None) -> LayerRules:
    """Layer rules, `weight` and `activation` by name, with the bits and group sizes chosen by the search."""
    if mixed is None:
        return rules
    chosen = mixed["mixed"]["layers"]
    return {
        name: {**rule, "weight": {**rule["weight"], **chosen[name]}} if name in chosen else rule
        for name, rule in rules.items()
    }


def identify_bits(bits_per_weight: float | None, mixed: MixedBits | None) -> dict[str, str]:
    """Origin entry of layers quantized after a search: the fingerprint of the chosen bits.

    Raises UserError if `bits_per_weight` asks for a search and there is none, or the reverse.
    """
    if (bits_per_weight is None) != (mixed is None):
        raise UserError("--mixed: mixed_bits.json is needed where bits_per_weight is set, and only there")
    return {} if mixed is None else {"mixed_bits": plan.fingerprint(mixed["mixed"]["layers"])}
