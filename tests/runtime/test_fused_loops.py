"""On a Linux CPU, MLX finds fused loops in place once the package is imported; only a command builds them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from taqmlx.numerics import fused
from taqmlx.runtime import blas, fused_loops
from tests.runtime.test_blas import run_python
from workflow_scripts.tools import install_loops

pytestmark = pytest.mark.skipif(
    blas.find_bundled_blas() is None or shutil.which("g++") is None, reason="MLX compiles no loops with g++ here"
)
COMPUTE = """
import taqmlx, mlx.core as mx
from taqmlx.numerics.elementwise import approximate_gelu, approximate_softmax
from taqmlx.numerics.token_rounding import round_tokens
x = mx.random.normal((2, 5, 64), key=mx.random.key(0))
def loss(x):
    return mx.square(approximate_softmax(round_tokens(approximate_gelu(x), 8, 32, True), 0.5)).sum()
value, slope = mx.value_and_grad(loss)(x)
print(value.item().hex(), hash(bytes(memoryview(slope))))
"""


def list_libraries(folder):
    return sorted(path.name for path in folder.glob(fused_loops.LIBRARIES))


def test_the_command_has_built_every_loop_that_a_forward_and_its_gradient_use(tmp_path):
    _, err = run_python(COMPUTE, TMPDIR=str(tmp_path))
    assert err == ""
    built = list_libraries(fused_loops.find_folder())
    assert list_libraries(tmp_path) == built
    assert not list(tmp_path.rglob("*.cpp")), "MLX compiled a loop by itself"


def test_every_function_is_one_loop():
    assert len(list_libraries(fused_loops.find_folder())) == fused.evaluate_samples()


def test_results_are_the_same_bits_without_the_loops(tmp_path):
    fused, plain = (
        run_python(COMPUTE, TMPDIR=str(tmp_path), PYTHONHASHSEED="0", **more)
        for more in ({}, {fused_loops.DISABLE: "1"})
    )
    assert fused == plain


def test_a_partial_loop_is_replaced_by_a_whole_one(tmp_path):
    library = next(fused_loops.find_folder().glob(fused_loops.LIBRARIES))
    target = tmp_path / library.relative_to(fused_loops.find_folder())
    target.parent.mkdir(parents=True)
    target.write_bytes(library.read_bytes()[:1000])
    run_python("import taqmlx", TMPDIR=str(tmp_path))
    assert target.read_bytes() == library.read_bytes()
    assert list_libraries(tmp_path) == list_libraries(fused_loops.find_folder())


def test_a_folder_that_cannot_be_written_is_named_in_one_line_and_nothing_is_compiled(tmp_path):
    (tmp_path / "mlx").write_bytes(b"a file of somebody else")
    out, err = run_python(COMPUTE, TMPDIR=str(tmp_path), PYTHONHASHSEED="0")
    assert out == run_python(COMPUTE, PYTHONHASHSEED="0")[0]
    (line,) = err.splitlines()
    assert line.startswith(fused_loops.ADVICE)
    assert str(tmp_path) in line
    assert line.endswith("; set TMPDIR to another folder")


def list_mounts_without_programs():
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [folder for _, folder, _, options, *_ in lines if "noexec" in options.split(",") and Path(folder).is_dir()]


def test_a_folder_from_which_no_program_may_run_is_named():
    for folder in list_mounts_without_programs() or pytest.skip("every file system allows programs"):
        obstacle = fused_loops.find_obstacle(fused_loops.find_folder(), Path(folder))
        assert obstacle == f"no program may run from {folder}; set TMPDIR to another folder"


def test_loops_of_another_version_are_reported_in_one_line(tmp_path):
    """The folder's name has the version of MLX and the code of the loops; a copy of the package has other code."""
    shutil.copytree("taqmlx", tmp_path / "taqmlx")
    with (tmp_path / "taqmlx" / "numerics" / "fused.py").open("a") as file:
        file.write("# changed\n")
    done = subprocess.run(
        [sys.executable, "-c", "import taqmlx, os; print(os.environ['MLX_DISABLE_COMPILE'])"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.stdout.strip() == "1"
    (line,) = done.stderr.splitlines()
    assert line == f"{fused_loops.ADVICE}: no loops are built for this version; run: python -m {blas.LOOPS_INSTALLER}"


@pytest.fixture
def missing(tmp_path, monkeypatch):
    """A folder for the loops that does not exist yet."""
    monkeypatch.setattr(fused_loops, "find_folder", lambda: tmp_path / "loops" / "version")
    return tmp_path / "loops" / "version"


def write_library(place=fused_loops.find_temporary):
    library = place() / "mlx" / "0" / "cpu" / "libloop.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"built")


def test_loops_are_built_once_and_appear_at_once(missing):
    assert fused_loops.build_loops(write_library)
    assert list_libraries(missing) == ["libloop.so"]
    assert not fused_loops.build_loops(write_library)
    assert list(missing.parent.iterdir()) == [missing]


def test_a_failed_build_leaves_nothing(missing):
    with pytest.raises(OSError, match="MLX compiled nothing"):
        fused_loops.build_loops(lambda: None)
    assert not list(missing.parent.iterdir())


def test_the_faster_of_two_builds_is_kept(missing):
    def build_beside():
        write_library()
        write_library(lambda: missing)

    assert fused_loops.build_loops(build_beside)
    assert list(missing.parent.iterdir()) == [missing]


def test_without_a_compiler_the_command_says_so_and_succeeds(monkeypatch, caplog):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level("INFO", "taqmlx"):
        install_loops.main(None)
    assert "g++ is not installed" in caplog.text


def test_make_builds_the_loops_last():
    recipe = Path("Makefile").read_text(encoding="utf-8").partition("$(READY): ")[2].partition("\n\n")[0]
    assert recipe.splitlines()[-2] == f"\t$(BIN)/python -m {blas.LOOPS_INSTALLER}"
