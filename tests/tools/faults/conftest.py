"""The finished run for the campaigns."""

from dataclasses import replace

import pytest

from tools.faults.sound_artefacts import build_artefacts
from tools.faults.undisturbed import Run, read_jobs


@pytest.fixture(scope="session")
def run(finished) -> Run:
    """The finished run, not to be changed, without block inputs."""
    workflow, _ = finished
    shown = workflow.run("quant_config", "calibration", "activations", "--dry-run", "--forceall", "--printshellcmds")
    jobs = read_jobs(shown.stdout, workflow.results)
    assert len(jobs) > 20
    return Run(workflow.results, jobs)


@pytest.fixture(scope="session")
def warm_run(run, python) -> Run:
    """The same, with jobs that start with everything imported."""
    return replace(run, jobs=[replace(job, command=(python, *job.command[1:])) for job in run.jobs])


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory):
    """Every artefact, sound; not to be changed."""
    return build_artefacts(tmp_path_factory.mktemp("artefacts"))
