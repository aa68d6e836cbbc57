"""A complete results folder, made once, and copies of it to damage."""

import re
import shutil
from argparse import Namespace

import pytest

from taqmlx.store.errors import UserError
from tools.small_results.exports import export, quantize
from tools.small_results.shards import build_finished, run_entry
from workflow_scripts.tools import verify_dataset


@pytest.fixture(scope="session")
def complete(tmp_path_factory):
    """Everything there is to check; not to be changed."""
    folder = shutil.copytree(build_finished(), tmp_path_factory.mktemp("complete") / "results")
    run_entry(folder, "gather_calibration")
    run_entry(folder, "export_npz")
    quantize(folder)
    export(folder)
    return folder


@pytest.fixture
def results(complete, tmp_path):
    """A copy to do with as one likes."""
    return shutil.copytree(complete, tmp_path / "results")


class Outcome:
    """The table of a verification by check, and the faults it listed."""

    def __init__(self, table: str, faults: list[str], error: str):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
        self.results = {row[0]: row[1] for row in rows}
        self.details = {row[0]: row[2] for row in rows}
        self.faults, self.error = faults, error

    @property
    def failed(self) -> set[str]:
        return {check for check, result in self.results.items() if result == "FAIL"}


@pytest.fixture
def verify(capsys, caplog):
    """Verify a folder: its outcome."""

    def run(folder, replay=6, seed=0):
        capsys.readouterr()
        caplog.clear()
        error = ""
        try:
            verify_dataset.main(Namespace(results=folder, trajectories=None, replay=replay, seed=seed))
        except UserError as caught:
            error = str(caught)
        faults = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        shown = re.search(r"^\| check.*", capsys.readouterr().out, re.MULTILINE | re.DOTALL)
        return Outcome(shown.group(), faults, error)

    return run
