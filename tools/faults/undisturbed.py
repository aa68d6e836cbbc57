"""An undisturbed run of the workflow, its jobs as commands, and copies of its results to damage."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"))
# Everything `config/quick.yaml` makes but the ladder; the ablation is the evaluation again, with other variants.
TARGETS = ("quant_config", "calibration", "activations", "manifest", "exports", "analysis", "fid", "plots", "report")
# What reads the arrays of the multi-tier config.
MORE = "evaluation/sizes/multitier.json"
# What is no result: times, messages, what no job writes, and what Snakemake and the locks leave.
NO_RESULTS = {"logs", "benchmarks", "scratch", "versions.json"}
MARK = ".snakemake_timestamp"
CORES = 2  # jobs that a campaign runs at a time


@dataclass(frozen=True)
class Job:
    """One job: its rule, its inputs, outputs and log by their names below the results, and its command.

    In the command `{results}` stands for where the results are.
    """

    rule: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    log: str
    command: tuple[str, ...]

    @property
    def written(self) -> list[str]:
        """Everything it may leave: its outputs and, undeclared, the scratch of a killed job and their digests."""
        pictures = [self.outputs[0].removesuffix(".json")] if self.rule == "generate_images" else []
        sums = [f"{stem}.sha256" for name in self.outputs for stem in (name, name.rpartition(".")[0]) if stem]
        return [*self.outputs, *pictures, *dict.fromkeys(sums)]

    def fill_in(self, results: Path) -> list[str]:
        """Its command for the results in a folder."""
        return [word.replace("{results}", str(results)) for word in self.command]


@dataclass(frozen=True)
class Run:
    """A finished run: where its results are, and its jobs."""

    results: Path
    jobs: list[Job]

    def list_files(self) -> list[str]:
        """Every file of the results by its name below them, sorted."""
        return sorted(list_results(self.results))

    def find_producer(self, name: str) -> Job | None:
        """The job that leaves the file or folder `name`, or what it lies in."""
        return next((job for job in self.jobs if any(lies_in(name, place) for place in job.written)), None)

    def find_readers(self, name: str) -> list[Job]:
        """The jobs that have the file `name`, or what it lies in, among their inputs."""
        return [job for job in self.jobs if any(lies_in(name, place) for place in job.inputs)]

    def list_ancestors(self, job: Job) -> list[Job]:
        """The jobs that make what `job` reads, what those read, and so on."""
        found: dict[Job, None] = {}
        for name in job.inputs:
            producer = self.find_producer(name)
            if producer and producer not in found:
                found |= dict.fromkeys([producer, *self.list_ancestors(producer)])
        return list(found)


def lies_in(name: str, place: str) -> bool:
    """Whether `name` is the file or folder `place`, or in it."""
    return name == place or name.startswith(f"{place}/")


def list_results(folder: Path) -> Iterator[str]:
    """The names of all files of results in `folder`, without what is none."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and path.name != MARK and path.suffix != ".lock" and not NO_RESULTS & set(parts):
            yield "/".join(parts)


def run_quick(folder: Path, targets: Sequence[str] = TARGETS) -> Run:
    """The workflow, undisturbed, with `config/quick.yaml`, in `folder`; what is there already is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    done = call_snakemake(folder, *targets, f"results/{MORE}")
    if done.returncode:
        raise RuntimeError(f"the undisturbed run fails:\n{done.stdout}")
    results = folder / "results"
    forced = ("--dry-run", "--forceall", "--printshellcmds")
    shown = call_snakemake(folder, *targets, str(results / MORE), *forced, results=str(results))
    return Run(results, read_jobs(shown.stdout, results))


def call_snakemake(folder: Path, *arguments: str, results: str = "results") -> subprocess.CompletedProcess:
    """Snakemake on one core in `folder`, to its end; what it says is in `.stdout`.

    Its results go by a relative name, so that what it knows of them holds in a copy of the folder.
    """
    settings = ["--cores", "1", "--directory", str(folder), "--configfile", str(ROOT / "config/quick.yaml")]
    config = [f"results_dir={results}", f"prompts={ROOT / 'config/prompts/embedded.txt'}"]
    command = [*SNAKEMAKE, *arguments, "--notemp", *settings, "--config", *config]
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env=own)


def read_jobs(shown: str, results: Path) -> list[Job]:
    """The jobs with a command in what `snakemake --dry-run --forceall --printshellcmds` shows."""
    jobs = []
    for part in re.split(r"\n\n(?=\[)", shown):
        rule = re.search(r"^(?:local)?rule (\w+):", part, re.M)
        command = re.search(r"^Shell command: (python .*)$", part, re.M)
        if rule and command:
            inputs, outputs, logs = (tuple(read_names(part, kind, results)) for kind in ("input", "output", "log"))
            words = [word.replace(str(results), "{results}") for word in shlex.split(command[1])]
            jobs.append(Job(rule[1], inputs, outputs, logs[0], (sys.executable, *words[1:])))
    return sorted(jobs, key=lambda job: (job.rule, job.outputs))


def list_names(shown: str, kind: str) -> list[str]:
    """The names in all lines of inputs, outputs or logs that Snakemake shows, without what it says of them."""
    lines = re.findall(rf"^    {kind}: (.*)$", shown, re.M)
    return [re.sub(r" \(\w+\)$", "", name) for line in lines for name in line.split(", ")]


def read_names(part: str, kind: str, results: Path) -> Iterator[str]:
    """The names below the results in a job's line of inputs, outputs or logs."""
    for name in list_names(part, kind):
        if Path(name).is_relative_to(results):
            yield Path(name).relative_to(results).as_posix()


def copy_results(results: Path, target: Path, without: Iterable[str] = ()) -> None:
    """Copy results by hard links, since nothing of the workflow changes a file in place; logs are left out."""
    shutil.copytree(results, target, copy_function=os.link, ignore=shutil.ignore_patterns("logs", "scratch", MARK))
    for name in without:
        delete(target / name)


def delete(path: Path) -> None:
    """Delete a file or a folder that may not be there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def run_command(
    command: list[str], environment: dict[str, str] | None = None, root: Path = ROOT, **settings
) -> subprocess.CompletedProcess:
    """Run a job's command, of the package in `root`, to its end; what it says is in `.stderr`.

    Python looks for modules in the folder where it is started before all others.
    """
    own = os.environ | (environment or {})
    return subprocess.run(command, env=own, cwd=root, capture_output=True, text=True, timeout=600, **settings)


def find_differences(found: Path, wanted: Path, names: Iterable[str]) -> list[str]:
    """The files below `names` that are not byte by byte those of `wanted`, or that only one of the two has."""
    different = []
    for name in names:
        files = {name} if (wanted / name).is_file() or (found / name).is_file() else set()
        for folder in (found, wanted):
            files |= {(Path(name) / file).as_posix() for file in list_results(folder / name)}
        different += [file for file in sorted(files) if not is_equal(found / file, wanted / file)]
    return different


def is_equal(first: Path, second: Path) -> bool:
    """Whether both are files with the same bytes."""
    if not (first.is_file() and second.is_file()):
        return False
    return first.samefile(second) or first.read_bytes() == second.read_bytes()
