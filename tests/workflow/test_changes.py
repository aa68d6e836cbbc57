"""A run reports what changed around its results."""

import pytest

from taqmlx.runtime import versions
from taqmlx.store.files import write_json
from tests.support.workflow_run import read_tree

pytestmark = pytest.mark.slow


def list_lines(said: str, kind: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith(f"{kind}: ")]


def test_the_versions_of_numeric_packages_are_recorded(finished):
    workflow, said = finished
    assert versions.read_recorded(workflow.results) == [versions.list_installed()]
    assert list_lines(said, "warning") == []


def test_results_of_another_mlx_version_are_a_warning_and_stay_valid(copy):
    record = copy.results / versions.FILE
    write_json(record, {"made_with": [versions.list_installed() | {"mlx": "0.0.1"}]})
    planned = copy.run("quant_config", "-n")
    (line,) = list_lines(planned.stdout, "warning")
    assert "made with mlx 0.0.1" in line
    assert "Nothing to be done" in planned.stdout


def test_a_damaged_record_of_versions_stops_before_any_job(copy):
    (copy.results / versions.FILE).write_text("{")
    refused = copy.run("quant_config")
    assert refused.returncode == 1
    (line,) = list_lines(refused.stdout, "error")
    assert "versions.json is damaged" in line
    assert line.endswith("delete it and run again")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"capture_points": 9}, "adaround was made from other capture_blocks (capture_points: 12 there, 9 in"),
        ({"selected_steps": 2}, "adaround was made from other gather_calibration (selected_steps: 3 there, 2 in"),
    ],
    ids=["points", "steps"],
)
def test_changed_settings_behind_finished_blocks_stop_before_any_job(copy, changes, words):
    before = read_tree(copy.results)
    copy.configure(**changes)
    refused = copy.run("quant_config")
    assert refused.returncode == 1
    (line,) = list_lines(refused.stdout, "error")
    assert words in line
    assert "overwrite=true" in line
    assert read_tree(copy.results) == before


def test_a_finished_rung_with_other_settings_stops_only_runs_that_need_it(copy):
    block = copy.results / "ladder" / "w4a8_joint" / "mm_01.safetensors"
    assert copy.run(str(block)).returncode == 0
    for name in ("mm_00", "mm_01", "mm_02", "mm_03", "mm_04"):
        (copy.results / "adaround" / f"{name}.json").unlink()
    copy.configure(adaround_iterations=7)
    refused = copy.run(str(block), "-n")
    (line,) = list_lines(refused.stdout, "error")
    assert "w4a8_joint/mm_01 was made with other parameters (adaround_iterations: 6 there, 7 in" in line
    assert copy.run(str(block), "-n", "--config", "overwrite=true").returncode == 0
    assert copy.run("quant_config", "-n").returncode == 0
