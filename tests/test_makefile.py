"""The Makefile starts only with a Python version for which all pinned packages have wheels."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# A Python of another version by its own words; asked for a virtual environment it stops.
SHIM = """#!/bin/sh
[ "$1" = -c ] || {{ echo "asked for: $*"; exit 3; }}
exec '{python}' -c 'import sys; code = sys.argv[1]; sys.version_info = {version}; exec(code)' "$2"
"""


@pytest.fixture
def make(tmp_path):
    """make(version, *options): what the Makefile says to a Python of that version."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(name, tmp_path)

    def call(version, *options):
        shim = tmp_path / "python"
        shim.write_text(SHIM.format(python=sys.executable, version=(*version, 0)))
        shim.chmod(0o755)
        command = ["make", "--no-print-directory", "venv", f"PYTHON={shim}", *options]
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=outside)
        assert done.returncode == 2
        assert not (tmp_path / ".venv").exists()
        return done.stdout + done.stderr

    return call


def test_another_cuda_than_mlx_has_is_rejected_in_one_line(make):
    (_, first), _ = find_range()
    said = make((3, first), "CUDA=11")
    assert "asked for" not in said
    assert "CUDA=11: MLX has packages for CUDA 12 and 13" in said


@pytest.mark.parametrize(("options", "backend"), [((), "cpu"), (("CUDA=12",), "cuda12"), (("CUDA=13",), "cuda13")])
def test_cuda_chooses_the_package_of_mlx(options, backend):
    plan = subprocess.run(["make", "-n", "-B", "venv", *options], capture_output=True, text=True, check=True).stdout
    (command,) = re.findall(r"sed '(.*?)' requirements\.txt", plan)
    given = Path("requirements.txt").read_text(encoding="utf-8")
    made = subprocess.run(["sed", command], input=given, capture_output=True, text=True, check=True).stdout
    assert made == given.replace("mlx[cpu]", f"mlx[{backend}]")
    assert f"mlx[{backend}]==" in made


def find_range():
    """The versions of `requires-python`, the first and the one after the last."""
    wanted = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    return [(3, int(minor)) for minor in re.fullmatch(r">=3\.(\d+),<3\.(\d+)", wanted).groups()]


def test_every_version_of_the_range_is_accepted(make):
    (_, first), (_, end) = find_range()
    for minor in range(first, end):
        assert "asked for: -m venv .venv" in make((3, minor))


@pytest.mark.parametrize("place", ["before", "after"])
def test_other_versions_are_rejected_in_one_line_that_names_the_cure(make, place):
    (_, first), (_, end) = find_range()
    said = make((3, first - 1 if place == "before" else end))
    assert "asked for" not in said
    (line,) = [line for line in said.splitlines() if "make:" not in line]
    assert line == f"Python 3.{first} to 3.{end - 1} is needed; name one with: make PYTHON=python3.{first} ..."


def test_the_documents_state_the_same_range():
    (_, first), (_, end) = find_range()
    for path in ("README.md", "docs/quickstart.md"):
        assert f"Python 3.{first} to 3.{end - 1}" in Path(path).read_text(encoding="utf-8"), path


def test_the_tests_run_on_a_version_of_the_range():
    first, end = find_range()
    assert first <= sys.version_info[:2] < end
