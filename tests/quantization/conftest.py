"""A finished study, and studies to change."""

import shutil

import numpy as np
import pytest

from tests.quantization.multitier import Chooser
from tools.small_results.study import Study, write_calibration


@pytest.fixture(scope="session")
def arrays_and_study(tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("study"))
    arrays = write_calibration(study.calibration)
    study.finish()
    return arrays, study


@pytest.fixture(scope="session")
def finished(arrays_and_study) -> Study:
    """A finished study; not to be changed."""
    return arrays_and_study[1]


@pytest.fixture(scope="session")
def points(arrays_and_study) -> dict[str, np.ndarray]:
    """The arrays of its calibration set."""
    return arrays_and_study[0]


@pytest.fixture
def study(tmp_path) -> Study:
    """A study with nothing but a calibration set."""
    study = Study(tmp_path)
    write_calibration(study.calibration)
    return study


@pytest.fixture
def chooser(finished, tmp_path) -> Chooser:
    """Chooses bits for the finished study."""
    return Chooser(finished, tmp_path)


@pytest.fixture
def copy(finished, tmp_path) -> Chooser:
    """Chooses bits for a copy of the finished study, to change."""
    folder = tmp_path / "moved"
    shutil.copytree(finished.folder, folder)
    return Chooser(Study(folder), folder)
