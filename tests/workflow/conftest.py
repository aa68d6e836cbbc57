"""A run for each test, and the finished run to be damaged."""

import shutil

import pytest

from tests.support.workflow_run import Workflow


@pytest.fixture
def workflow(tmp_path, python) -> Workflow:
    return Workflow(tmp_path, python)


@pytest.fixture
def copy(finished) -> Workflow:
    """The finished main job, free to be damaged; it is put back afterwards.

    Not so what Snakemake knows of it: a test that runs jobs with other settings runs them again with these.
    """
    workflow, _ = finished
    kept, config = workflow.folder / "kept", workflow.config.read_bytes()
    shutil.copytree(workflow.results, kept, copy_function=shutil.copy2)
    yield workflow
    workflow.config.write_bytes(config)
    shutil.rmtree(workflow.results)
    kept.rename(workflow.results)
