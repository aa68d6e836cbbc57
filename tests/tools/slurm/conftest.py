"""Slurm for these tests, if `make slurm` asks for them."""

import os

import pytest

from tests.support.working_copy import WorkingCopy
from tests.tools.slurm.summary import Summary
from tools.slurm.node import SlurmNode, explain_absence

SWITCH = "SLURM_TESTS"
SUMMARIES: list[Summary] = []


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """A Slurm of one node, for all tests of the session; it is ended, and nothing of it stays."""
    if os.environ.get(SWITCH) != "1":
        pytest.skip("takes a quarter of an hour; run with: make slurm")
    if reason := explain_absence():
        pytest.skip(reason)
    node = SlurmNode(tmp_path_factory.mktemp("slurm"))
    try:
        node.up()
        yield node
    finally:
        node.down()


@pytest.fixture
def cluster(node, tmp_path) -> WorkingCopy:
    """The project in a folder of its own, with this Slurm's commands before all others."""
    return WorkingCopy(tmp_path / "cluster", node.environment)


@pytest.fixture(scope="session")
def local(tmp_path_factory) -> WorkingCopy:
    """The quick workflow as run without Slurm."""
    copy = WorkingCopy(tmp_path_factory.mktemp("local") / "copy")
    done = copy.run("quant_config", "--cores", "2")
    assert done.returncode == 0, done.stdout
    return copy


@pytest.fixture
def summarize(request, node):
    """Note what became of the jobs of a run, for the end of the session."""

    def note(copy: WorkingCopy, *remarks: str) -> None:
        SUMMARIES.append(Summary(request.node.name, copy.read_said(), node.read_finished(), remarks))

    return note


def pytest_terminal_summary(terminalreporter):
    for summary in SUMMARIES:
        terminalreporter.write_sep("-", summary.title)
        for line in summary.tabulate():
            terminalreporter.write_line(line)
