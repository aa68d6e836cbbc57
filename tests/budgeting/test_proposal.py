"""A proposal fits what was asked for, and is a configuration that loads. Disk is first saved at the same quality."""

import math
from argparse import ArgumentTypeError

import pytest
import yaml

from taqmlx.budgeting import devices, proposal
from taqmlx.budgeting.shapes import read_shapes
from taqmlx.budgeting.stages import find_peak, list_stages
from taqmlx.budgeting.work import estimate_rates
from taqmlx.planning import configuration
from tests.budgeting.test_budget import budget, run

SD3 = {"configfile": [budget.Path("config/sd3-medium.yaml")], "device": "M4 Max"}


def prepare(preset):
    """The configuration of a preset, and what plans the stages of a configuration for an M4 Max."""
    config, prompts = budget.load_files([budget.Path(f"config/{preset}.yaml")])
    shapes = read_shapes(config)
    rates = estimate_rates(config, shapes.sizes)

    def plan_stages(config):
        return devices.time_stages(list_stages(config, prompts, shapes, rates), devices.DEVICES["M4 Max"])

    return config, plan_stages


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


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"hours": 0.01}, "no configuration fits 0.01 hours; the smallest"),
        ({"disk": 1e6}, "no configuration fits 1.00 MB; the smallest"),
        ({"hours": 0.01, "disk": 1e9}, "no configuration fits 0.01 hours and 1.00 GB; the smallest"),
    ],
)
def test_what_no_setting_fits_is_rejected_in_one_line_with_the_smallest(asked, words, capsys):
    status, _, said = run(SD3 | asked, capsys)
    assert status == 1
    assert said.startswith(words)
    assert "use_t5" in said
    assert "\n" not in said


def test_only_keys_of_the_model_are_advised(capsys):
    assert run({"hours": 1e-9}, capsys)[2].endswith("; allow more")


@pytest.mark.parametrize(
    ("configfile", "disk"), [("sd3-medium", 20e9), ("sd3-medium-512", 20e9), ("calibration-1000", 19e9)]
)
def test_disk_is_saved_by_groups_of_blocks_if_they_are_enough(configfile, disk):
    """By as few as fit: each group more repeats forwards."""
    config, plan_stages = prepare(configfile)
    found = proposal.propose(config, math.inf, disk, plan_stages)
    count = found.config["capture_groups"]
    assert found.config == config | {"capture_groups": count}
    assert found.disk <= disk
    fewer = [config | {"capture_groups": less} for less in range(1, count)]
    assert all(find_peak(plan_stages(each)) > disk for each in fewer)


def test_groups_of_blocks_repeat_forwards_of_the_capture_alone():
    config, plan_stages = prepare("sd3-medium")
    one, eight = ({s.name: s.forwards for s in plan_stages(config | {"capture_groups": n})} for n in (1, 8))
    assert eight.pop("capture_blocks") == 4.5 * one.pop("capture_blocks")
    assert eight == one


def test_hours_that_save_disk_save_groups_too():
    """With fewer prompts after it, the first setting needs fewer groups."""
    config, plan_stages = prepare("sd3-medium")
    long, short = (proposal.propose(config, hours, 20e9, plan_stages) for hours in (math.inf, 1))
    assert short.config["capture_groups"] < long.config["capture_groups"]


def test_groups_of_the_configuration_are_kept_where_the_disk_is_large_enough():
    config, plan_stages = prepare("sd3-medium-evening")
    assert config["capture_groups"] > 1
    assert proposal.propose(config, math.inf, 10e9, plan_stages).config == config


@pytest.mark.parametrize(("groups", "counts"), [(1, [1, 2, 3, 4, 5, 6, 8, 12, 24]), (7, [7, 8, 12, 24])])
def test_each_number_of_groups_has_a_smaller_largest_group(groups, counts):
    config, _ = prepare("sd3-medium")
    assert proposal.list_group_counts(config | {"capture_groups": groups}) == counts


@pytest.mark.whole
@pytest.mark.parametrize("preset", sorted(path.stem for path in budget.Path("config").glob("*.yaml")))
def test_the_smallest_proposal_of_every_preset_loads(preset, tmp_path):
    if preset == "config.schema":
        return
    config, plan_stages = prepare(preset)
    found = proposal.propose(config, 0, 0, plan_stages)
    budget.write_proposal(tmp_path / "small.yaml", found.config, found.stages, "")
    again, _ = budget.load_files([tmp_path / "small.yaml"])
    assert again | {"results_dir": ""} == found.config | {"results_dir": ""}


def test_exports_count_in_the_disk_that_is_asked_for(capsys):
    evening = {"configfile": [budget.Path("config/sd3-medium-evening.yaml")], "device": "M4 Max", "disk": 9.05e9}
    assert "proposed: no change is needed" in run(evening, capsys)[1]
    _, printed, _ = run(evening | {"exports": True}, capsys)
    assert "proposed: no change is needed" not in printed
    assert read_total(printed)[1] <= 9.05


def test_an_unknown_device_is_rejected_with_the_known_ones(capsys):
    status, _, said = run({"device": "M9"}, capsys)
    assert status == 1
    assert "M4 Max" in said


def test_more_is_never_asked_of_a_stage_further_down():
    limits = [*proposal.DISK_LIMITS, *proposal.HOURS_LIMITS[:-1]]
    config = budget.load_files(SD3["configfile"])[0]
    for limit in limits:
        lowered = proposal.lower(config, limit)
        assert all(lowered[key] <= (config[key] or lowered[key]) for key in limit if key != "distil")
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


@pytest.mark.parametrize(("text", "count"), [("20G", 20e9), ("500M", 5e8), ("1.5TB", 1.5e12)])
def test_sizes_are_read_with_their_unit(text, count):
    assert budget.read_bytes(text) == count


@pytest.mark.parametrize("text", ["20", "0G", "-5G", "abc", "G", "20MG", "20GiB", "nanG", ""])
def test_a_size_without_a_unit_or_above_0_is_rejected_with_an_example(text):
    with pytest.raises(ArgumentTypeError, match="such as 20G"):
        budget.read_bytes(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "abc", ""])
def test_hours_that_are_no_time_are_rejected(text):
    with pytest.raises(ArgumentTypeError, match="hours above 0"):
        budget.read_hours(text)
