"""The command that plots layer inputs."""

import subprocess
import sys
from argparse import Namespace

import pytest

from taqmlx.planning.stages import PlotActivations
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, write_json
from taqmlx.store.statistics_file import FORMAT, SCHEMA
from taqmlx.store.tensors import write_tensors
from tests.plots.synthetic import SIGMAS, STEPS, build_statistics
from tools.commands import find_module
from workflow_scripts.plots import plot_activations

PER_STEP = SCHEMA["properties"]["inputs"]["additionalProperties"]["properties"]["per_step"]["required"]
ENTRIES = ("plot_activations", "plot_blocks", "plot_evaluation", "plot_frontier", "plot_pictures")


@pytest.fixture
def arguments(tmp_path):
    inputs, arrays = build_statistics(2)
    for name, described in inputs.items():
        # What the figures do not show has to be there too.
        described |= {"layers": [name]}
        described["per_step"] = dict.fromkeys(PER_STEP, described["per_step"]["absmax"]) | described["per_step"]
    write_tensors(tmp_path / "statistics.safetensors", arrays)
    about = {"file": "statistics.safetensors", "sha256": hash_file(tmp_path / "statistics.safetensors")}
    statistics = FORMAT | {"steps": STEPS, "sigmas": SIGMAS, "inputs": inputs, "arrays": about}
    statistics |= {"model": "embedded", "origin": {"calibration": ""}}
    write_json(tmp_path / "statistics.json", statistics)
    write_json(tmp_path / "params.json", PlotActivations(model="embedded", snapshot_steps=[0, 25]).encode())
    return Namespace(
        params=tmp_path / "params.json", statistics=tmp_path / "statistics.json", out=tmp_path / "plots", log=None
    )


def test_every_figure_is_written_in_both_formats_under_its_known_name(arguments):
    plot_activations.main(arguments)
    names = {"absmax_step_000", "absmax_step_025", *plot_activations.NAMES}
    assert {path.name for path in arguments.out.iterdir()} == {
        f"{name}{suffix}" for name in names for suffix in (".png", ".svg", ".sha256")
    }


def test_arrays_of_other_statistics_are_rejected(arguments):
    write_tensors(arguments.statistics.with_suffix(".safetensors"), {})
    with pytest.raises(UserError, match="run merge_activations again"):
        plot_activations.main(arguments)


@pytest.mark.parametrize("entry", ENTRIES)
def test_plots_load_neither_mlx_nor_pyplot(entry):
    code = f"import sys, {find_module(entry)}; print(*{{'mlx.core', 'matplotlib.pyplot', 'torch'}} & {{*sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
