"""A folder of results with everything in it, made once, and copies of it to damage."""

import re
import shutil
from argparse import Namespace

import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from tests.quantization.conftest import Study, write_rounded_blocks
from tests.support.shards import CONFIG, build_finished, run_entry
from workflow_scripts.datasets import decode_latents, export_latents, export_samples, write_manifest
from workflow_scripts.tools import verify_dataset


def export(folder):
    """Write the manifest and all exports of the trajectories in `folder`."""
    params, store, exports = folder / "params" / "collect_shard.json", folder / "trajectories.zarr", folder / "exports"
    write_manifest.main(Namespace(params=params, trajectories=store, saved=None, out=folder / "manifest.json"))
    export_samples.main(Namespace(params=params, trajectories=store, out=exports / "samples"))
    export_latents.main(Namespace(params=params, trajectories=store, out=exports / "latents"))
    decode_latents.main(Namespace(params=params, latents=exports / "latents", out=exports / "images"))
    write_manifest.main(
        Namespace(params=params, trajectories=store, saved=exports, out=exports / "manifest.json"),
    )


def quantize(folder):
    """Statistics, packed weights and the quantization config, from the calibration set in `folder`."""
    study = Study(folder, selected_steps=CONFIG["selected_steps"])
    for part in study.list_parts():
        study.collect(part)
    study.merge()
    sigmas = read_json(study.statistics)["sigmas"]
    study.pack(write_rounded_blocks(folder / "adaround", read_json(study.params("optimise_block")), sigmas=sigmas))
    study.write_config()


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
