import mlx.core as mx
import pytest

from taqmlx.models import embedded
from taqmlx.reconstruction.flat_weights import start_at_weights
from tests.support.blocks import capture, set_up
from tools.reference import create_transformer


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


@pytest.fixture(scope="session")
def captured():
    """Rows of all blocks of the embedded model."""
    return capture(embedded.load_transformer())


@pytest.fixture(scope="session")
def study(captured):
    """The block mm_01 with 3-bit weights and 8-bit inputs by noise level: problem, rules, grids, quantizers."""
    problem, rules = captured.pose()
    grids, quantizers, _ = set_up(problem, rules)
    return problem, rules, grids, quantizers


@pytest.fixture(scope="session")
def flat(study):
    """The weights of `study` where learning starts by default."""
    problem, _, grids, _ = study
    return start_at_weights(problem.weights, grids)
