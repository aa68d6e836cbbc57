"""The ways to store a weight that the search for bits chooses from. Standard library only."""

from typing import NamedTuple

WIDTHS = (2, 3, 4, 5, 6, 8)  # bits that are tried; MLX stores 7 as 8
GROUP_SIZES = (64, 128)  # groups of 32 were tried on the embedded model and never chosen
CHOICES = len(WIDTHS) * len(GROUP_SIZES)
GROUP_BITS = 32  # of a group's scale and bias, fp16 both
PROBE_POINTS = 8  # calibration points of a gradient that errors are estimated from
CHANGE_BYTES = 2  # of a weight, in each choice: half precision
GROUP_BYTES = 4_000_000_000  # of the changes of layers that share a gradient


class Choice(NamedTuple):
    """One way to store a weight."""

    bits: int
    group_size: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight with its share of the group's scale and bias."""
        return self.bits + GROUP_BITS / self.group_size


# By layer, the error of each choice
Costs = dict[str, dict[Choice, float]]


def list_choices(width: int) -> list[Choice]:
    """The choices for a weight of `width` inputs; none if no group fits."""
    return [Choice(bits, size) for bits in WIDTHS for size in GROUP_SIZES if width % size == 0]


def stored_bits(bits: int) -> int:
    """The bits a code of `bits` takes in MLX's format, which has no width of 7."""
    return 8 if bits == 7 else bits
