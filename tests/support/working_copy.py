"""A copy of the project in another folder, as on another machine, with Snakemake in it."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import yaml

from tools.commands import find_module

PARTS = ("Snakefile", "config", "rules", "profiles", "report", "taqmlx", "workflow_scripts")
QUICK = Path("config/quick.yaml")
# What differs between equal runs: times, and the marks Snakemake leaves.
UNLIKE = {"logs", "benchmarks", "scratch", ".snakemake_timestamp"}


def copy_project(folder: Path, *others: str) -> None:
    """What a run needs of the project, and `others`, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in (*PARTS, *others):
        copy = shutil.copytree if Path(part).is_dir() else shutil.copy2
        copy(Path(part), folder / part)


class WorkingCopy:
    """A copy of the project in `folder`, with its results in there and `environment` around its commands.

    `config.yaml` is the preset for quick runs with `changes`; `python` runs Snakemake to the end.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, python: str = sys.executable, **changes
    ):
        self.folder, self.results, self.environment = folder, folder / "results", environment
        self.python = python
        copy_project(folder)
        self.configure(**changes)

    def configure(self, **changes) -> None:
        """Replace the configuration."""
        values = yaml.safe_load(QUICK.read_text(encoding="utf-8")) | {"results_dir": "results"} | changes
        (self.folder / "config.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")

    def command(self, *words: str) -> list[str]:
        return ["-m", "snakemake", *words, "--configfile", "config.yaml"]

    def start(self, *words: str) -> subprocess.Popen:
        """Start Snakemake as the leader of a process group; what it says goes to `said.log`."""
        said = (self.folder / "said.log").open("a")
        return subprocess.Popen(
            [sys.executable, *self.command(*words)],
            cwd=self.folder,
            env=self.environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to the end; what it says is in `.stdout`."""
        return subprocess.run(
            [self.python, *self.command(*words)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    def read_said(self) -> str:
        """What the runs that were started have said."""
        return (self.folder / "said.log").read_text(encoding="utf-8")

    def find_worker(self, name: str, patience: float = 300) -> psutil.Process:
        """A worker of a rule that runs here; waits for one. Raises TimeoutError."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            for process in psutil.process_iter(["cmdline", "cwd"]):
                words = process.info["cmdline"] or []
                if find_module(name) in words and process.info["cwd"] == str(self.folder):
                    return process
            time.sleep(0.02)
        raise TimeoutError(name)

    def list_planned(self, *words: str) -> list[str]:
        """The rules a dry run would execute, one entry a job."""
        table = self.run(*words, "-n", "--quiet", "rules").stdout.partition("\ntotal ")[0]
        pairs = [line.split() for line in table.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit()]
        return sorted(rule for rule, count in pairs for _ in range(int(count)))

    def read_results(self) -> dict[str, bytes]:
        """Every file of the results by its relative name, except what differs between equal runs."""
        paths = (path for path in sorted(self.results.rglob("*")) if path.is_file())
        names = {path: path.relative_to(self.results) for path in paths}
        return {str(name): path.read_bytes() for path, name in names.items() if not UNLIKE & set(name.parts)}
