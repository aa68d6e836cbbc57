"""Tests run as workers do: one thread per process, and the package imported before MLX so that its BLAS is bound."""

import pytest

import workflow_scripts  # noqa: F401
from tests.quantization.conftest import Study, write_calibration


@pytest.fixture(scope="session")
def quantized_study(tmp_path_factory) -> Study:
    """Weights rounded to nearest and activations observed at three noise levels; not to be changed."""
    study = Study(tmp_path_factory.mktemp("study"), statistics_shards=1)
    write_calibration(study.calibration)
    study.finish()
    return study
