"""Facts of the run: no local paths, and summed benchmarks."""

from pathlib import Path

from taqmlx.report import runs
from tests.support.report_study import BENCHMARK


def test_absolute_paths_keep_only_their_names():
    config = {
        "prompts": "config/prompts/embedded.txt",
        "clip": {"path": "/home/me/clip", "sha256": "ab"},
        "real": r"C:\me\r",
    }
    config |= {"list": ["/home/me/a.txt", 4.5], "none": None}
    shown = dict(runs.list_configuration(config))
    assert shown["prompts"] == "config/prompts/embedded.txt"
    assert shown["clip"] == '{"path": "clip", "sha256": "ab"}'
    assert shown["real"] == "r"
    assert (shown["list"], shown["none"]) == ('["a.txt", 4.5]', "null")


def test_every_package_has_a_version_or_is_not_installed():
    versions = dict(runs.list_versions())
    assert versions["numpy"][0].isdigit()
    assert runs.find_version("a-package-nobody-has") == "not installed"


def write_benchmark(folder: Path, name: str, seconds: float, memory: str):
    path = folder / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(BENCHMARK.format(seconds, memory) + "\n")


def test_jobs_of_a_stage_are_summed_and_very_short_ones_have_no_memory(tmp_path):
    write_benchmark(tmp_path, "sample/a/00", 100, "50.0")
    write_benchmark(tmp_path, "sample/b/00", 50.5, "200.0")
    write_benchmark(tmp_path, "score", 0.25, "-")
    stages = runs.read_benchmarks(tmp_path)
    assert runs.describe_stage("sample", stages["sample"]) == {
        "name": "sample",
        "jobs": 2,
        "total": 150.5,
        "longest": 100,
        "memory": 200 * 1.048576,
    }
    table = runs.tabulate_benchmarks(stages)
    assert [[cell.text for cell in row] for row in table.bodies[0].rows] == [
        ["sample", "2", "2 min 30 s", "1 min 40 s", "210"],
        ["score", "1", "0.2 s", "0.2 s", "–"],
    ]


def test_a_run_without_benchmarks_has_an_empty_table(tmp_path):
    assert runs.tabulate_benchmarks(runs.read_benchmarks(tmp_path / "absent")).bodies[0].rows == []
