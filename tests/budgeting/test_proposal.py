"""A proposal fits what was asked for, and is a configuration that loads."""

import pytest
import yaml

from taqmlx.budgeting import devices, proposal
from taqmlx.budgeting.stages import find_peak
from taqmlx.planning import configuration
from tests.budgeting.test_budget import budget, run

SD3 = {"configfile": [budget.Path("config/sd3-medium.yaml")], "device": "M4 Max"}


def read_total(printed):
    """Hours of the row `total`, and the largest disk at a time, in GB."""
    words = next(line for line in printed.splitlines() if line.startswith("total")).split()
    disk = next(line for line in printed.splitlines() if line.startswith("disk:")).split()
    return float(words[4]), float(disk[-5])


@pytest.mark.parametrize(("hours", "disk"), [(6, 20e9), (3, 20e9), (1, 100e9)])
def test_a_proposal_fits_and_its_file_loads(hours, disk, tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    status, printed, _ = run(SD3 | {"hours": hours, "disk": disk, "out": out}, capsys)
    found = read_total(printed)
    assert status == 0
    assert found[0] <= hours
    assert found[1] <= disk / 1e9
    config, _ = configuration.load(yaml.safe_load(out.read_text()) | {"results_dir": str(tmp_path)})
    assert config["model"] == "sd3-medium"
    again = run({"configfile": [out], "device": "M4 Max"}, capsys)[1]
    assert read_total(again) == found


def test_an_evening_is_six_hours_and_twenty_gb(capsys):
    evening = run(SD3 | {"evening": True}, capsys)[1]
    assert evening == run(SD3 | {"hours": 6, "disk": 20e9}, capsys)[1]


def test_a_setting_that_fits_is_left_as_it_is(capsys):
    _, printed, _ = run({"hours": 100}, capsys)
    assert "proposed: no change is needed" in printed


@pytest.mark.parametrize("asked", [{"hours": 0.01}, {"disk": 1e9}])
def test_what_no_setting_fits_is_rejected_in_one_line(asked, capsys):
    status, _, said = run(SD3 | asked, capsys)
    assert status == 1
    assert said.startswith("no configuration fits")
    assert "\n" not in said


def test_an_unknown_device_is_rejected_with_the_known_ones(capsys):
    status, _, said = run({"device": "M9"}, capsys)
    assert status == 1
    assert "M4 Max" in said


def test_more_is_never_asked_of_a_stage_further_down():
    limits = [*proposal.DISK_LIMITS, *proposal.HOURS_LIMITS]
    config = budget.load_files(SD3["configfile"])[0]
    for limit in limits:
        lowered = proposal.lower(config, limit)
        assert all(lowered[key] <= (config[key] or lowered[key]) for key in limit)
        config = lowered


def test_fewer_iterations_have_a_higher_rate():
    config = budget.load_files(SD3["configfile"])[0]
    assert proposal.lower(config, {"adaround_iterations": 500})["adaround_rate"] > config["adaround_rate"]
    assert proposal.lower(config, {"adaround_iterations": 9000})["adaround_rate"] == config["adaround_rate"]


def test_captured_rows_are_deleted_after_the_blocks():
    def stage(name, disk):
        return proposal.Stage(name, 1, 0.0, 0.0, disk, ())

    early = [stage("collect_shard", 3), stage("capture_blocks", 7), stage("optimise_block", 2)]
    assert find_peak([*early, stage("pack_weights", 1)]) == 12
    assert find_peak([*early, stage("pack_weights", 9)]) == 14


def test_seconds_of_a_stage_are_its_operations_at_the_speed_that_is_reached():
    device = devices.Device("mine", {"fp16": 10.0, "fp32": 5.0}, "peak", "", 0.5)
    stage = proposal.Stage("x", 1, 0.0, 0.0, 0.0, (), flop=1e15)
    assert devices.estimate_seconds(stage, device) == pytest.approx(400)
    assert devices.estimate_seconds(stage._replace(half=1), device) == pytest.approx(200)
    assert devices.estimate_seconds(stage._replace(half=0.5), device) == pytest.approx(300)


@pytest.mark.parametrize(("text", "count"), [("20G", 20e9), ("500M", 5e8), ("1.5TB", 1.5e12), ("7", 7)])
def test_sizes_are_read_with_their_unit(text, count):
    assert budget.read_bytes(text) == count
