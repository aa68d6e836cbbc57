"""Stored types round as MLX does, and what is written is what was rounded to."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from taqmlx.numerics.stored_types import (
    STORED_TYPES,
    convert_values,
    decode_bfloat16,
    encode_bfloat16,
    find_scale_dtype,
    round_values,
)

FLOATS = hnp.arrays(np.float32, 17, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
HALFWAY = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, 2.0**-130, 0.0], np.float32)


@pytest.mark.parametrize("scale_dtype", STORED_TYPES)
@given(values=FLOATS)
def test_values_are_rounded_as_by_mlx(scale_dtype, values):
    by_mlx = np.array(mx.array(values).astype(getattr(mx, scale_dtype)).astype(mx.float32))
    np.testing.assert_array_equal(round_values(values, scale_dtype), by_mlx)


def test_half_a_step_of_bf16_goes_to_the_even_neighbour():
    even = np.array([1, 1 + 4 * 2**-8, -1, 1 + 2 * 2**-8, np.inf, 2.0**-130, 0], np.float32)
    np.testing.assert_array_equal(round_values(HALFWAY, "bfloat16"), even)


@pytest.mark.parametrize("scale_dtype", STORED_TYPES)
def test_the_largest_value_is_kept_and_the_next_step_is_infinite(scale_dtype):
    largest = np.float32(STORED_TYPES[scale_dtype].largest)
    assert round_values(np.array([largest, -largest]), scale_dtype).tolist() == [largest, -largest]
    assert np.isinf(round_values(np.array([largest * np.float32(1.003)]), scale_dtype)).all()


@pytest.mark.parametrize("scale_dtype", STORED_TYPES)
def test_an_array_says_its_stored_type(scale_dtype):
    assert find_scale_dtype(convert_values(np.ones(3, np.float32), scale_dtype)) == scale_dtype


@given(values=FLOATS)
def test_bits_of_bf16_come_back_as_the_same_values(values):
    rounded = round_values(values, "bfloat16")
    bits = encode_bfloat16(rounded)
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(decode_bfloat16(bits), rounded)
    np.testing.assert_array_equal(bits, np.array(mx.array(rounded).astype(mx.bfloat16).view(mx.uint16)))


def test_a_value_that_bf16_does_not_have_is_not_cast():
    with pytest.raises(ValueError, match="values that bf16 does not have"):
        encode_bfloat16(np.array([1, 1.001], np.float32))
