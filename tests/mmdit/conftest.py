import mlx.core as mx
import pytest

from tests.reference import create_transformer


@pytest.fixture(scope="session")
def transformer():
    """Random weights in the embedded model's shape; nothing in the tests changes them."""
    return create_transformer()


@pytest.fixture
def conditions():
    """Text of four conditions: context (4, 20, 128) and pooled (4, 128)."""
    keys = mx.random.split(mx.random.key(1), 2)
    return mx.random.normal((4, 20, 128), key=keys[0]), mx.random.normal((4, 128), key=keys[1])


@pytest.fixture
def latents():
    """Six latents (6, 8, 8, 16)."""
    return mx.random.normal((6, 8, 8, 16), key=mx.random.key(2))
