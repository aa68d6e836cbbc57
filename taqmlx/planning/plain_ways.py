"""The ways to call `nn.quantize` that the frontier is measured against. Standard library only."""

from collections.abc import Iterator
from typing import NamedTuple

WIDTHS = (2, 3, 4, 5, 6, 8)
SPLIT_GROUP = 64  # MLX's default
# By family: the variants of one job.
FAMILIES = ("groups_of_32", "groups_of_64", "groups_of_128", "splits")
FARTHEST_SPLIT = 2  # bits between the adaLN layers and the others


class Plain(NamedTuple):
    """One way to call `nn.quantize`: bits of the adaLN layers and of all others, and the group size."""

    modulation_bits: int
    bits: int
    group_size: int

    @property
    def title(self) -> str:
        """The way in words."""
        split = f"adaLN {self.modulation_bits}, others {self.bits} bits"
        widths = f"{self.bits} bits" if self.bits == self.modulation_bits else split
        return f"nn.quantize, {widths}, groups of {self.group_size}"


def list_plain(family: str) -> Iterator[Plain]:
    """The ways of one of FAMILIES: every width in groups of one size, or a width of their own for adaLN layers."""
    if family == "splits":
        pairs = ((own, other) for own in WIDTHS for other in WIDTHS if 0 < abs(own - other) <= FARTHEST_SPLIT)
        yield from (Plain(own, other, SPLIT_GROUP) for own, other in pairs)
    else:
        yield from (Plain(bits, bits, int(family.rpartition("_")[2])) for bits in WIDTHS)
