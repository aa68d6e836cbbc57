"""Builds the package as pyproject.toml says, with the workflow's files, which lie beside it in a clone, inside it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PARTS = ("Snakefile", "config", "profiles", "report", "rules")


class BuildWithWorkflow(build_py):
    """An editable installation finds the files in the clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "taqmlx" / "workflow"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for part in map(Path, PARTS):
            copy = shutil.copytree if part.is_dir() else shutil.copy2
            copy(part, folder / part.name)


setup(cmdclass={"build_py": BuildWithWorkflow})
