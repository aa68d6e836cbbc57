"""Results started on one CPU family and finished on another: other kernels, and nothing is rejected.

OpenBLAS is told which kernels to take; those of Nehalem run on every x86-64 CPU and are no newer one's.
"""

import os
import subprocess
from pathlib import Path

import pytest

from taqmlx.runtime import versions
from tests.support.warm import start_warm_python
from tests.support.workflow_run import Workflow
from tools.commands import find_module

pytestmark = [
    pytest.mark.slow,
    pytest.mark.whole,
    pytest.mark.skipif(versions.name_kernels() in ("reference", "of the system", "Nehalem"), reason="no other kernels"),
]
OTHER, HERE = "Nehalem", os.environ.get("OPENBLAS_CORETYPE")


@pytest.fixture(scope="module")
def pythons(python):
    """What starts Python's processes by each kind of kernels; none is the kind of this machine."""
    with start_warm_python(Path(), {"OPENBLAS_CORETYPE": OTHER}) as other:
        yield {None: python, OTHER: other}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, pythons):
    """A finished main job, one shard and one block of it by other kernels, and what each of the three runs said."""
    workflow, said = Workflow(tmp_path_factory.mktemp("mixed")), []
    workflow.configure(block_inputs="quantized", prompts_per_shard=1)
    results = workflow.results
    targets = (results / "trajectories.zarr" / "000", results / "adaround" / "mm_01.safetensors", "quant_config")
    with pytest.MonkeyPatch.context() as patch:
        for target, kernels in zip(targets, (OTHER, None, OTHER), strict=True):
            choose_kernels(patch, kernels)
            workflow.python = pythons[kernels]
            done = workflow.run(str(target))
            assert done.returncode == 0, done.stdout
            said.append(done.stdout)
    return workflow, said


def choose_kernels(patch, kernels):
    """Those of this process if none are named."""
    if kernels or HERE:
        patch.setenv("OPENBLAS_CORETYPE", kernels or HERE)
    else:
        patch.delenv("OPENBLAS_CORETYPE", raising=False)


def test_a_resumed_run_warns_of_the_other_kernels_once(mixed):
    _, (first, second, third) = mixed
    here = versions.name_kernels()
    assert "warning: " not in first
    assert second.count(f"was made with BLAS kernels {OTHER}, but {here} are used here") == 1
    assert third.count(f"was made with BLAS kernels {here}, but {OTHER} are used here") == 1


def test_both_kernels_are_recorded(mixed):
    workflow, _ = mixed
    recorded = [entry[versions.KERNELS] for entry in versions.read_recorded(workflow.results)]
    assert recorded == [OTHER, versions.name_kernels()]


@pytest.mark.parametrize("kernels", [OTHER, None])
def test_both_kernels_accept_the_finished_results(mixed, pythons, monkeypatch, kernels):
    """Steps computed again and pictures decoded again are within the tolerances of `verify_dataset`."""
    workflow, _ = mixed
    choose_kernels(monkeypatch, kernels)
    workflow.python = pythons[kernels]
    assert workflow.list_jobs("quant_config") == []
    results = str(workflow.results)
    for command in (
        ("verify_dataset", "--results", results, "--replay", "42"),
        ("verify_weights", f"{results}/quantized", "--blocks", f"{results}/adaround"),
    ):
        checked = subprocess.run(
            [workflow.python, "-m", find_module(command[0]), *command[1:]], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
