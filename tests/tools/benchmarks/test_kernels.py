"""`make bench` names the kernels beside every figure, and warns if the environment selects other than the CPU's own."""

import os
import subprocess
import sys

import pytest

from taqmlx.runtime.blas import find_bundled_blas, name_kernels
from tools.benchmarks import kernels
from tools.benchmarks.table import Row, as_records, format_table

PRINT = "from tools.benchmarks import kernels as k; print(k.name_products('ours')); k.warn_if_held()"


def run_python(**selected):
    """Kernels' name and warnings in a process whose environment selects no kernels but `selected`."""
    free = {name: value for name, value in os.environ.items() if name not in (kernels.SELECTOR, kernels.SWITCH)}
    command = [sys.executable, "-c", PRINT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=free | selected)
    return done.stdout.strip(), done.stderr.strip()


def test_a_row_has_the_kernels_of_this_process_unless_it_names_others():
    rows = [Row("ours", 2.0, "s"), Row("theirs", 3.0, "s", kernels="PyTorch AVX2")]
    records = as_records(rows)
    assert {name: record["kernels"] for name, record in records.items()} == {
        "ours": name_kernels(),
        "theirs": "PyTorch AVX2",
    }
    assert all(line.endswith(row.kernels) for line, row in zip(format_table(rows).splitlines()[1:], rows, strict=True))


def test_each_run_names_what_multiplies_its_matrices():
    assert kernels.name_products("torch_two_threads").startswith("PyTorch ")
    assert kernels.name_products("diffusionkit", reference=True) == "reference"
    assert kernels.name_products("ours") == name_kernels()


@pytest.mark.skipif(find_bundled_blas() is None, reason="MLX brings no reference BLAS here")
def test_kernels_that_are_not_those_of_the_cpu_are_warned_of_in_one_line():
    own, silent = run_python()
    assert silent == ""
    assert own == kernels.name_unheld()
    assert run_python(OPENBLAS_CORETYPE=own) == (own, "")
    for name, value, used in (("OPENBLAS_CORETYPE", "Nehalem", "Nehalem"), ("MLX_REFERENCE_BLAS", "1", "reference")):
        if own not in ("Nehalem", "reference"):
            found, warning = run_python(**{name: value})
            assert found == used
            assert warning == (
                f"warning: {name}={value} selects the BLAS kernels {used}, this CPU has {own}:"
                " figures are not of its full speed"
            )
