"""The `nn.quantize` settings used as the baseline of the frontier. Standard library only."""

from collections.abc import Iterator
from typing import NamedTuple

from taqmlx.planning.bit_choices import WIDTHS

SPLIT_GROUP = 64  # MLX's default group size
# Families of settings; one job samples one family.
FAMILIES = ("groups_of_32", "groups_of_64", "groups_of_128", "splits")
FARTHEST_SPLIT = 2  # largest difference in bits between adaLN layers and the others


class Plain(NamedTuple):
    """One `nn.quantize` setting: bits of the adaLN layers, bits of all other layers, and group size."""

    modulation_bits: int
    bits: int
    group_size: int

    @property
    def title(self) -> str:
        """The setting in words."""
        split = f"adaLN {self.modulation_bits}, others {self.bits} bits"
        widths = f"{self.bits} bits" if self.bits == self.modulation_bits else split
        return f"nn.quantize, {widths}, groups of {self.group_size}"


def list_plain(family: str) -> Iterator[Plain]:
    """Yield the settings of one of FAMILIES: every width with one group size, or a separate width for adaLN layers."""
    if family == "splits":
        pairs = ((own, other) for own in WIDTHS for other in WIDTHS if 0 < abs(own - other) <= FARTHEST_SPLIT)
        yield from (Plain(own, other, SPLIT_GROUP) for own, other in pairs)
    else:
        yield from (Plain(bits, bits, int(family.rpartition("_")[2])) for bits in WIDTHS)
