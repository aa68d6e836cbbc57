"""A fused function returns the same bits as its operations, one by one."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics import fused
from taqmlx.numerics.elementwise import approximate_gelu, exponentiate
from taqmlx.numerics.token_rounding import round_tokens

X = mx.random.normal((3, 7, 64), key=mx.random.key(0)) * mx.array(np.geomspace(1e-3, 30, 64, dtype=np.float32))


@pytest.fixture
def apart():
    """MLX evaluates operation by operation inside the call."""

    def evaluate(compute):
        mx.disable_compile()
        try:
            found = compute()
            mx.eval(found)
            return found
        finally:
            mx.enable_compile()

    return evaluate


COMPUTATIONS = {
    "GELU": lambda: approximate_gelu(X),
    "the slope of GELU": lambda: mx.grad(lambda x: approximate_gelu(x).sum())(X),
    "powers of two": lambda: exponentiate(X),
    "rounding per token": lambda: round_tokens(X, 8, "token", False),
    "rounding per group about its centre": lambda: round_tokens(X, 4, 32, True),
    "rounding of one of two joined streams": lambda: round_tokens(mx.split(X, [3], axis=1)[1], 8, 32, True),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_fusing_changes_no_bit(name, apart):
    fused_bits, bits = (np.array(found).view(np.uint32) for found in (COMPUTATIONS[name](), apart(COMPUTATIONS[name])))
    np.testing.assert_array_equal(fused_bits, bits)


def test_the_positive_part_of_gelu_needs_no_maximum():
    """(x + |x|) / 2 is max(x, 0), also for numbers that are not normal."""
    x = np.concatenate([np.geomspace(1e-45, 1e38, 200), [0.0]]).astype(np.float32)
    x = np.concatenate([x, -x])
    found = np.array(fused.subtract_tail(mx.array(x), mx.full(x.shape, np.inf)))
    np.testing.assert_array_equal(found, np.maximum(x, 0))
