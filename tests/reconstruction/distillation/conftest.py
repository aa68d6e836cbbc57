"""The tasks of the tests of distillation."""

import pytest

from tests.support.distillation import COARSE_INPUTS, GROUPED_INPUTS, SINGLE, make_task
from tools.reference import FLUX


@pytest.fixture(scope="package")
def plain(tmp_path_factory):
    """3-bit weights, exact inputs."""
    return make_task(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="package")
def coarse(tmp_path_factory):
    """3-bit weights, inputs of 4 bits with a step size for each noise level; after a GELU shifted and migrated."""
    return make_task(tmp_path_factory.mktemp("coarse"), COARSE_INPUTS)


@pytest.fixture(scope="package")
def unguided(tmp_path_factory):
    """FLUX: one condition, unified blocks."""
    return make_task(tmp_path_factory.mktemp("unguided"), GROUPED_INPUTS, 1, **FLUX | SINGLE)


@pytest.fixture(params=["plain", "coarse", "unguided"])
def study(request):
    return request.getfixturevalue(request.param)
