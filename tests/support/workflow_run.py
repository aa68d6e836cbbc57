"""Real workflow runs on the embedded model at the smallest scale with every stage."""

import signal
import subprocess
import sys
from pathlib import Path

import yaml

PROMPTS = ["a red circle", 'a "small" blue\tsquare – été 漢字', "a red circle"]


# No search for ranges, which is most of the work of a search for bits at this scale.
WEIGHTS = [{"layers": "*", "bits": 4, "range": "absmax"}]
# The search for folds likewise, where there are to be some.
FOLDS = [{"layers": "mm_00.*", "kind": "scale"}]


class Workflow:
    """Snakemake on a configuration of its own, run by `python`; results and prompts lie in `folder`."""

    def __init__(self, folder: Path, python: str = sys.executable):
        self.folder, self.python = folder, python
        self.results = folder / "the results"
        self.config = folder / "config.yaml"
        prompts = folder / "prompts.txt"
        prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        self.configure(
            results_dir=str(self.results),
            prompts=str(prompts),
            prompts_per_shard=1,
            trajectories=7,
            steps=6,
            selected_steps=3,
            checkpoint_every=2,
            statistics_shards=2,
            capture_points=12,
            capture_shards=2,
            adaround_iterations=6,
            adaround_batch=4,
            adaround_checkpoint_every=2,
            weights=WEIGHTS,
            search_points=12,
            search_probes=2,
            distil_iterations=4,
            folds=[],  # the quick workflow, the hard twin and Stable Diffusion 3 in miniature have some
            distil_batch=4,
            distil_checkpoint_every=2,
        )

    def configure(self, **changes) -> None:
        """Change values in the configuration file."""
        values = yaml.safe_load(self.config.read_text(encoding="utf-8")) if self.config.exists() else {}
        self.config.write_text(yaml.safe_dump(values | changes, allow_unicode=True), encoding="utf-8")

    def command(self, *arguments: str, cores: int = 1) -> list[str]:
        return ["-m", "snakemake", "--cores", str(cores), *arguments, "--configfile", str(self.config)]

    def run(self, *arguments: str, cores: int = 1) -> subprocess.CompletedProcess:
        """Run to the end; what it says is in `.stdout`.

        Without Snakemake's locks: tests side by side share its folder, and one would look for a lock another removed.
        """
        return subprocess.run(
            [self.python, *self.command(*arguments, "--nolock", cores=cores)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )

    def start(self, *arguments: str, cores: int = 1) -> subprocess.Popen:
        """Start as the leader of a process group, so that a test can interrupt or kill all of it: Python itself."""
        return subprocess.Popen(
            [sys.executable, *self.command(*arguments, cores=cores)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def list_jobs(self, *arguments: str) -> list[str]:
        """The rules a dry run would execute, one entry a job."""
        shown = self.run(*arguments, "-n", "--quiet", "rules").stdout
        table = shown.partition("\ntotal ")[0]
        pairs = [words for words in map(str.split, table.splitlines()) if len(words) == 2 and words[1].isdigit()]
        return sorted(rule for rule, count in pairs for _ in range(int(count)))


def read_tree(folder: Path) -> dict[str, bytes]:
    """Every file of a result by its relative name, without the marks Snakemake leaves and without the logs."""
    skipped = {"logs", "benchmarks"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".snakemake_timestamp" and not skipped & set(path.relative_to(folder).parts)
    }
