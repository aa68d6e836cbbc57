"""A process with everything imported ends and prints as one of Python itself."""

import subprocess
import sys

import pytest

COMMANDS = {
    "done": ("workflow_scripts.trajectories.create_store", "--help"),
    "no options": ("workflow_scripts.trajectories.create_store",),
    "an error": ("workflow_scripts.tools.describe_quantization", "absent.json"),
    "Snakemake": ("snakemake", "--version"),
}


def run(python, *words, **settings):
    done = subprocess.run([python, *words], capture_output=True, text=True, **settings)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_status_and_output_are_equal(python, words):
    assert run(python, "-m", *words) == run(sys.executable, "-m", *words)


def test_a_process_in_another_folder_imports_what_is_there(python, tmp_path):
    module = tmp_path / "workflow_scripts" / "tools" / "describe_quantization.py"
    module.parent.mkdir(parents=True)
    module.write_text("print(__file__)")
    assert run(python, "-m", "workflow_scripts.tools.describe_quantization", cwd=tmp_path) == (0, f"{module}\n", "")
