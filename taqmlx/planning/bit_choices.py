"""Weight formats considered by the bit search. Standard library only."""

from typing import NamedTuple

WIDTHS = (2, 3, 4, 5, 6, 8)  # candidate bit widths; MLX stores 7 bits as 8
GROUP_SIZES = (64, 128)  # groups of 32 were tried on the embedded model and never chosen
CHOICES = len(WIDTHS) * len(GROUP_SIZES)
GROUP_BITS = 32  # scale and bias of one group, both fp16
PROBE_POINTS = 8  # calibration points per gradient used to estimate errors
CHANGE_BYTES = 2  # bytes per weight of one candidate's rounding error, in fp16
GROUP_BYTES = 2_000_000_000  # smallest limit for the rounding errors of layers that share a gradient


class Choice(NamedTuple):
    """Bits and group size of a stored weight."""

    bits: int
    group_size: int

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, including its share of the group's scale and bias."""
        return self.bits + GROUP_BITS / self.group_size


def limit_group(weights: int) -> int:
    """Largest total bytes of the rounding errors of layers that share a gradient, of a model of `weights` weights.

    For a large model it is a byte per weight, so that no model has more groups than CHOICES times CHANGE_BYTES.
    """
    return max(GROUP_BYTES, weights)


# layer name -> error of each choice
Costs = dict[str, dict[Choice, float]]


def list_choices(width: int) -> list[Choice]:
    """The choices for a weight with `width` inputs; empty if no group size divides `width`."""
    return [Choice(bits, size) for bits in WIDTHS for size in GROUP_SIZES if width % size == 0]


def stored_bits(bits: int) -> int:
    """Bits per code in MLX's storage format, which has no 7-bit format."""
    return 8 if bits == 7 else bits
