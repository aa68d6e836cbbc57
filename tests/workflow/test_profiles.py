"""The profiles, and the parallel jobs of a run with them."""

import csv
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from snakemake.profiles import ProfileConfigFileParser

from taqmlx.planning import plan
from tests.support.working_copy import WorkingCopy
from tests.test_imports import list_imports

SMALL = {
    "trajectories": 6,
    "steps": 24,
    "selected_steps": 3,
    "prompts": "three.txt",
    "prompts_per_shard": 1,
    "evaluation_pictures": 256,
    "ablation_pictures": 256,
}
REFERENCES = ("results/evaluation/reference", "results/ablation/reference")  # drawn without MLX


def read_profile(name: str) -> dict:
    with Path(f"profiles/{name}/config.yaml").open() as file:
        return dict(ProfileConfigFileParser().parse(file))


def split_rules():
    """The text of each rule by its name, with that of the rule it is made from."""
    own: dict[str, str] = {}
    base: dict[str, str] = {}
    for path in sorted(Path("rules").glob("*.smk")):
        for part in re.split(r"^(?=(?:use )?rule )", path.read_text(), flags=re.M):
            if named := re.match(r"(?:use rule (\w+) as|rule) (\w+)", part):
                own[named[2]], base[named[2]] = part.partition("\n\n\n")[0], named[1] or ""
    return {name: text + own.get(base[name], "") for name, text in own.items()}


def reaches_mlx(module: str, seen: set[str]) -> bool:
    """Whether a module of the project, or one it imports, imports MLX; the models' catalogue does as it is asked."""
    path = Path(*module.split(".")).with_suffix(".py")
    if module in seen or not path.exists():
        return False
    seen.add(module)
    names = list(list_imports(path))
    outside = any(name.split(".")[0] == "mlx" for name in names) or path.name == "catalogue.py"
    ours = {
        part
        for name in names
        if name.startswith(("taqmlx.", "workflow_scripts."))
        for part in (name, name.rpartition(".")[0])
    }
    return outside or any(reaches_mlx(name, seen) for name in ours)


def test_exactly_the_jobs_that_import_mlx_take_its_token():
    for name, text in split_rules().items():
        if entry := re.search(r"-m (workflow_scripts\.[\w.]+)", text):
            assert ("mlx=1" in text) == reaches_mlx(entry[1], set()), name


def test_on_apple_silicon_one_job_at_a_time_computes_with_mlx_by_default(monkeypatch):
    assert "resources" not in read_profile("default")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert read_profile("default")["resources"] == ["mlx=1"]


def test_cluster_profiles_keep_the_default_profile_in_force():
    for name in ("slurm", "cluster-generic"):
        assert not set(read_profile(name)) & set(read_profile("default")), name


def test_snakemake_considers_as_many_ready_jobs_as_a_cluster_may_run():
    weighed = int(read_profile("default")["scheduler-subsample"])
    assert all(weighed >= int(read_profile(name)["jobs"]) for name in ("slurm", "cluster-generic"))


def test_with_gpus_every_stage_that_runs_the_model_requests_one(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(Path("profiles/slurm/config.yaml").read_text().replace("gpus: 0", "gpus: 2"))
    with path.open() as file:
        asked = {line.split(":")[0] for line in ProfileConfigFileParser().parse(file)["set-resources"]}
    # The first two compute next to nothing; the frontier's pictures are drawn by rules of their own.
    stages = plan.LOADS_MODEL - {"pack_weights", "measure_size", "measure_frontier"}
    drawn = {"draw_frontier_reference", "draw_plain", "draw_size"}
    frontier = {"optimise_frontier_block", "round_frontier_shared", "distil_frontier"}
    assert stages | drawn | frontier <= asked
    rules = split_rules()
    assert all("mlx=1" in rules[name] for name in asked)


def test_planning_loads_neither_mlx_nor_zarr():
    command = [sys.executable, "-X", "importtime", "-m", "snakemake", "quant_config", "-n", "--quiet", "all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0
    loaded = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert "taqmlx.budgeting.jobs" in loaded
    assert not loaded & {"mlx", "mlx.core", "zarr"}


@pytest.fixture
def copy(tmp_path) -> WorkingCopy:
    copy = WorkingCopy(tmp_path / "copy", **SMALL)
    (copy.folder / "three.txt").write_text("a red circle\na blue square\na green triangle\n")
    return copy


def read_intervals(copy, rule):
    """When the jobs of a rule began and ended, in seconds, from their benchmarks."""
    intervals = []
    for path in (copy.results / "benchmarks" / rule).glob("*.tsv"):
        with path.open() as file:
            (row,) = csv.DictReader(file, delimiter="\t")
        end = path.stat().st_mtime
        intervals.append((end - float(row["s"]), end))
    return sorted(intervals)


def count_overlaps(first, second):
    """How many pairs of intervals, one of each list, have more than a tenth of a second in common."""
    return sum(min(a[1], b[1]) - max(a[0], b[0]) > 0.1 for a in first for b in second if a != b)


def watch_threads(copy, run, module):
    """What every worker of a module was told of its threads, while `run` runs."""
    told = {}
    while run.poll() is None:
        for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
            if module in (process.info["cmdline"] or []) and process.info["cwd"] == str(copy.folder):
                try:
                    told[process.pid] = process.environ().get("OPENBLAS_NUM_THREADS")
                except psutil.Error:
                    continue
        time.sleep(0.2)
    return set(told.values())


@pytest.mark.slow
@pytest.mark.whole
def test_with_one_token_mlx_jobs_run_one_at_a_time_and_others_beside_them(copy):
    done = copy.run("trajectories", *REFERENCES, "--cores", "3", "--resources", "mlx=1")
    assert done.returncode == 0, done.stdout
    shards, references = read_intervals(copy, "collect_shard"), read_intervals(copy, "draw_reference")
    assert (len(shards), len(references)) == (3, 2)
    assert count_overlaps(shards, shards) == 0
    assert count_overlaps(shards, references) > 0


@pytest.mark.slow
@pytest.mark.whole
def test_on_cpus_there_is_one_worker_per_core_with_the_blas_threads_of_its_job(copy):
    run = copy.start("results/trajectories.zarr/000", "results/trajectories.zarr/001", "--cores", "2")
    assert watch_threads(copy, run, "workflow_scripts.trajectories.collect_shard") == {"1"}
    assert run.returncode == 0, copy.read_said()
    shards = read_intervals(copy, "collect_shard")
    assert count_overlaps(shards, shards) > 0
    wide = copy.start("results/trajectories.zarr/002", "--cores", "2", "--set-threads", "collect_shard=2")
    assert watch_threads(copy, wide, "workflow_scripts.trajectories.collect_shard") == {"2"}
