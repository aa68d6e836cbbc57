"""The leftovers of a killed writer are removed by the next one; those of a running writer are kept."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from taqmlx.store.files import write_atomically, write_folder, write_plain_json

WRITER = """
import sys, time
from pathlib import Path
from taqmlx.store.files import {name}

def write(partial):
    (partial / "x" if partial.is_dir() else partial).write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()

{name}(Path(sys.argv[1]), write)
"""
WAYS = {"write_atomically": write_atomically, "write_folder": write_folder}


def fill(partial: Path) -> None:
    (partial / "x" if partial.is_dir() else partial).write_text("whole")


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def writer(way, tmp_path):
    """A process in the middle of writing `tmp_path / "x.png"`."""
    command = [sys.executable, "-c", WRITER.format(name=way), str(tmp_path / "x.png")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.communicate()


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_leftovers_of_a_killed_writer_are_removed_by_the_next(way, writer, tmp_path):
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert len(list_names(tmp_path)) == 1
    WAYS[way](tmp_path / "x.png", fill)
    assert list_names(tmp_path) == ["x.png"]


def test_a_running_writer_is_not_disturbed(way, writer, tmp_path):
    WAYS[way](tmp_path / "x.png", fill)
    partial, name = list_names(tmp_path)
    assert partial.startswith(".x.png.")
    assert name == "x.png"
    writer.communicate("continue\n")
    assert writer.returncode == 0
    assert list_names(tmp_path) == ["x.png"]


def test_leftovers_of_another_path_are_kept(tmp_path):
    names = [".x.0a1b2c3d.partial", ".x.json.0a1b2c3d.partial.json.more", ".y.json.0a1b2c3d.partial.json"]
    for name in names:
        (tmp_path / name).touch()
    write_plain_json(tmp_path / "x.json", 1)
    assert list_names(tmp_path) == sorted([*names, "x.json"])
