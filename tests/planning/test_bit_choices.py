"""The choices of the bit search, and their sizes."""

import pytest

from taqmlx.numerics.bit_search import count_stored_bits
from taqmlx.planning.bit_choices import CHOICES, GROUP_SIZES, WIDTHS, Choice, list_choices


def test_every_width_is_combined_with_every_group_size_that_divides_the_inputs():
    assert {choice.group_size for choice in list_choices(64)} == {64}
    assert {choice.group_size for choice in list_choices(256)} == {64, 128}
    assert [choice.bits for choice in list_choices(64)] == list(WIDTHS)
    assert len(set(list_choices(128))) == len(list_choices(128)) == CHOICES == len(WIDTHS) * len(GROUP_SIZES)


@pytest.mark.parametrize("width", [16, 32, 96, 100])
def test_inputs_that_no_group_divides_have_no_choice(width):
    assert list_choices(width) == []


@pytest.mark.parametrize(
    ("choice", "bits"), [(Choice(2, 64), 2.5), (Choice(4, 64), 4.5), (Choice(4, 128), 4.25), (Choice(8, 128), 8.25)]
)
def test_the_size_of_a_weight_includes_its_share_of_scale_and_zero_point(choice, bits):
    """fp16 both: as a checkpoint of MLX counts them."""
    assert choice.bits_per_weight == bits
    rule = {"symmetric": False, "range": "absmax", **choice._asdict()}
    assert count_stored_bits({"layer": rule}, {"layer": 1000}) == bits
