"""A separate working copy of the program, whose Snakemake and workers disturb no other."""

import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from taqmlx.store.files import hash_file
from taqmlx.store.lock import hold_lock

SOURCES = ("Snakefile", "rules", "config", "profiles", "report", "taqmlx", "workflow_scripts")
# Smaller than config/quick.yaml in what is drawn and learned, with more checkpoints to be killed between.
CHANGES: dict[str, Any] = {
    "results_dir": "results",
    "checkpoint_every": 5,
    "statistics_shards": 2,
    "capture_points": 32,
    "adaround_iterations": 12,
    "adaround_batch": 8,
    "adaround_checkpoint_every": 3,
    "search_points": 32,
    "search_probes": 4,
    "distil_iterations": 6,
    "distil_batch": 8,
    "distil_checkpoint_every": 2,
    "ladder_pictures": 4,
    "ladder_steps": 3,
    "evaluation_pictures": 8,
    "frontier_pictures": 4,
    "ablation_pictures": 4,
    "evaluation_steps": 3,
    "evaluation_shards": 2,
}
MAIN = ("quant_config", "activations", "calibration")
EVERYTHING = (*MAIN, "report", "analysis", "exports", "manifest", "ablation", "results/weights_ladder.json")
UNDISTURBED = Path("results/faults/undisturbed")
TIMES = {"logs", "benchmarks"}
# What has a table of the times that jobs took.
TIMED = {"report.html", "report.html.sha256"}


@dataclass(frozen=True)
class Job:
    """One job that Snakemake ran: its rule, its command, what it declared to write and to read, in the working copy."""

    rule: str
    command: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The words of the command, with this Python."""
        python, *words = shlex.split(self.command)
        assert python == "python", self.command
        return [sys.executable, *words]


class Process(subprocess.Popen):
    """The leader of a process group of its own. What it and its orphans say goes to a file, which outlives it."""

    def __init__(self, command: Sequence[str], folder: Path):
        descriptor, name = tempfile.mkstemp(prefix="said-", dir=folder)
        self.said = Path(name)
        # The program is that of the folder, wherever another copy of it may be installed.
        environment = os.environ | {"PYTHONPATH": str(folder)}
        with os.fdopen(descriptor) as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            super().__init__(command, cwd=folder, env=environment, start_new_session=True, **streams)

    def end(self, timeout: float = 1800) -> str:
        """What it said, once it has ended."""
        self.wait(timeout)
        return self.said.read_text(encoding="utf-8", errors="replace")


class WorkingCopy:
    """The program's files in `folder`, the configuration `config/faults.yaml`, and the folder of results."""

    def __init__(self, folder: Path, results: str = CHANGES["results_dir"]):
        self.folder, self.results, self.config = folder, folder / results, folder / "config" / "faults.yaml"

    @classmethod
    def create(cls, folder: Path) -> "WorkingCopy":
        """A fresh one, without results, of the program in the current folder."""
        copy = cls(Path().resolve()).duplicate_program(folder)
        quick = yaml.safe_load((folder / "config" / "quick.yaml").read_text(encoding="utf-8"))
        copy.config.write_text(yaml.safe_dump(quick | CHANGES), encoding="utf-8")
        return copy

    def duplicate(self, folder: Path) -> "WorkingCopy":
        """Another one with all that is in this one, times of files too."""
        run_quietly("cp", "-a", str(self.folder), str(folder))
        return WorkingCopy(folder)

    def duplicate_program(self, folder: Path) -> "WorkingCopy":
        """Another one with the same configuration and without results."""
        folder.mkdir(parents=True)
        for name in SOURCES:
            run_quietly("cp", "-a", str(self.folder / name), str(folder / name))
        return WorkingCopy(folder)

    def reset(self, other: "WorkingCopy") -> None:
        """Make the results, and what Snakemake knows of them, those of `other`."""
        for name in ("results", ".snakemake"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            run_quietly("cp", "-a", str(other.folder / name), str(self.folder / name))

    def configure(self, **changes: Any) -> None:
        """Change values of the configuration."""
        values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        self.config.write_text(yaml.safe_dump(values | changes), encoding="utf-8")

    def name_targets(self, targets: Sequence[str]) -> list[str]:
        """Targets with the name that the results have here."""
        return [target.replace("results/", f"{self.results.name}/") for target in targets]

    def snakemake(self, *arguments: str) -> list[str]:
        """The command of a run. Temporary results stay, so that every job's command can be run again."""
        run = (sys.executable, "-m", "snakemake", "--cores", "2", "--notemp")
        return [*run, *arguments, "--configfile", "config/faults.yaml"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end; what it says is in `.stdout`."""
        return self.finish(self.snakemake(*arguments))

    def finish(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; what it says is in `.stdout`."""
        process = self.start(command)
        said = process.end()
        return subprocess.CompletedProcess(command, process.returncode, said)

    def start(self, command: Sequence[str]) -> "Process":
        """Start a command."""
        return Process(command, self.folder)

    def list_jobs(self) -> list[Job]:
        """Every job that ran an entry, by what Snakemake keeps of it, in the order of their commands."""
        outputs: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
        for path in (self.folder / ".snakemake" / "metadata").iterdir():
            record = json.loads(path.read_text(encoding="utf-8"))
            job = record["rule"], record["shellcmd"], tuple(record["input"])
            outputs.setdefault(job, []).append(decode_name(path.name))
        return [
            Job(rule, command, tuple(sorted(names)), read) for (rule, command, read), names in sorted(outputs.items())
        ]

    def read_tree(self) -> dict[str, str]:
        """sha256 of every file in the results, hidden ones too, without logs, times, and Snakemake's own marks."""
        return {
            str(path.relative_to(self.results)): hash_file(path)
            for path in self.results.rglob("*")
            if path.name != ".snakemake_timestamp"
            and path.is_file()
            and path.relative_to(self.results).parts[0] not in TIMES
        }


def decode_name(name: str) -> str:
    """The output that a file of Snakemake's metadata is about: its name is in Base64."""
    return base64.urlsafe_b64decode(name).decode()


def run_quietly(*command: str) -> None:
    subprocess.run(command, check=True)


def compare_runs(found: dict[str, str], wanted: dict[str, str]) -> str:
    """The differences between results of two runs, which did not take the same time."""
    return compare_trees(*({name: tree[name] for name in tree if name not in TIMED} for tree in (found, wanted)))


def compare_trees(found: dict[str, str], wanted: dict[str, str]) -> str:
    """The differences in a few words; empty if there are none."""
    lines = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    lines += [f"{name} is there" for name in found.keys() - wanted.keys()]
    lines += [f"{name} differs" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    return "; ".join(sorted(lines)[:4]) + (f" and {len(lines) - 4} more" if len(lines) > 4 else "")


def make_reference(folder: Path, targets: Sequence[str], **changes: Any) -> WorkingCopy:
    """A working copy with the undisturbed results of `targets`; `changes` to the configuration."""
    reference = WorkingCopy.create(folder)
    reference.configure(**changes)
    done = reference.run(*targets)
    if done.returncode:
        raise RuntimeError(f"the undisturbed run ended with {done.returncode}:\n{done.stdout}")
    # The report was written before the last of the times that are in it.
    for job in reference.list_jobs():
        if job.rule == "write_report":
            reference.finish(job.words)
    return reference


def open_reference(folder: Path = UNDISTURBED) -> WorkingCopy:
    """The undisturbed results of everything, which campaigns share: made again when the program has changed."""
    wanted = hash_program()
    with hold_lock(folder.with_suffix(".lock"), print):
        mark = folder / "program"
        if not mark.exists() or mark.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            make_reference(folder, EVERYTHING)
            mark.write_text(wanted)
    return WorkingCopy(folder.resolve())


def hash_program() -> str:
    """sha256 of the program in the current folder, and of what is run."""
    digest = hashlib.sha256(repr((CHANGES, EVERYTHING)).encode())
    files = [path for name in SOURCES for path in [Path(name), *Path(name).rglob("*")] if path.is_file()]
    for path in sorted(path for path in files if path.suffix != ".pyc"):
        digest.update(f"{path} {hash_file(path)}\n".encode())
    return digest.hexdigest()
