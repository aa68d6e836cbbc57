"""Tests run like workers: one thread per process, and the package is imported before MLX to bind its BLAS."""

from pathlib import Path

import pytest
from hypothesis import settings

import taqmlx  # noqa: F401
from tests.support.warm import start_warm_python
from tests.support.workflow_run import Workflow
from tools.small_results.study import Study, write_calibration

# An example may wait for a busy machine.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

# Files of half a minute and more, the longest first.
LONGEST = (
    *("test_docs_run", "test_sd3_miniature", "test_transformer", "test_kills", "test_chain", "test_real_size"),
    *("test_main_job", "test_packaging", "test_gpu", "test_other_kernels", "test_two_machines", "test_flux_miniature"),
)


def pytest_collection_modifyitems(items):
    """The longest files go first, then others with slow tests, so that two processes end at about the same time."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (ranks.get(item.path.stem, len(ranks)), item.path not in slow))


@pytest.fixture(scope="session")
def quantized_study(tmp_path_factory) -> Study:
    """Weights rounded to nearest and activations observed at three noise levels; not to be changed."""
    study = Study(tmp_path_factory.mktemp("study"), statistics_shards=1)
    write_calibration(study.calibration)
    study.finish()
    return study


@pytest.fixture(scope="session")
def object_storage():
    """An S3 server for the whole session."""
    from tests.support.object_storage import Server  # a second to load

    return Server()


@pytest.fixture
def bucket(object_storage, monkeypatch) -> str:
    """The URL of a new bucket, which the environment leads to."""
    for key, value in object_storage.environment.items():
        monkeypatch.setenv(key, value)
    return object_storage.create_bucket()


@pytest.fixture(params=["folder", "url"])
def find_store(request):
    """find_store(results): the store of a folder of results, where it lies or mirrored to a bucket as it is."""
    if request.param == "folder":
        return lambda results: results / "trajectories.zarr"
    from tests.support.object_storage import mirror

    url = request.getfixturevalue("bucket")
    return lambda results: mirror(results / "trajectories.zarr", f"{url}/run/trajectories.zarr")


@pytest.fixture(scope="session")
def python():
    """What starts Python's processes with everything imported."""
    with start_warm_python(Path()) as program:
        yield program


@pytest.fixture(scope="session")
def finished(tmp_path_factory, python) -> tuple[Workflow, str]:
    """A finished main job and what it said; tests take a copy of it."""
    workflow = Workflow(tmp_path_factory.mktemp("a finished run"), python)
    done = workflow.run("quant_config", "calibration", "activations")
    assert done.returncode == 0, done.stdout
    return workflow, done.stdout
