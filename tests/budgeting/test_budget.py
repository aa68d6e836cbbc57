"""The budget against what a small run really writes and what the rules plan, and its refusals."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests import shards
from workflow_scripts import budget, collect_activations, configuration, plan
from workflow_scripts.budgeting import disk, stages, work
from workflow_scripts.budgeting.shapes import read_shapes
from workflow_scripts.budgeting.stages import count_held, count_missing, list_stages

SD3 = {"model": "sd3-medium", "height": 256, "width": 256}


def complete(**values):
    return configuration.complete(values, configuration.load_schema())


def list_all(config, prompts=shards.PROMPTS):
    shapes = read_shapes(config)
    return {s.name: s for s in list_stages(config, prompts, shapes, work.estimate_rates(config, shapes))}


@pytest.fixture(scope="module")
def embedded():
    return read_shapes(complete())


@pytest.fixture(scope="module")
def large():
    return read_shapes(complete(**SD3))


def run(parser_words, capsys):
    """The exit status of the entry, and what it printed and said."""
    arguments = {"configfile": [], "config": [], "exports": False, "measure": False, "log": None} | parser_words
    try:
        budget.main(budget.argparse.Namespace(**arguments))
    except budget.UserError as error:
        return 1, capsys.readouterr().out, str(error)
    return 0, capsys.readouterr().out, ""


def test_sd3_medium_has_its_published_shapes(large):
    assert large.parameters == pytest.approx(2.08e9, rel=0.01)
    assert (large.latent, large.image, large.text) == ((32, 32, 16), (256, 1536), (589, 1536))
    assert sum(layer.block != "" and layer.role != "adaLN" for layer in large.layers) == 285


def test_the_recorded_data_of_a_small_run_is_within_ten_percent(tmp_path):
    folder = shards.prepare(tmp_path, trajectories=30, steps=20, selected_steps=5)
    for shard in shards.SHARDS:
        shards.run_entry(folder, "collect_shard", shard)
    shards.run_entry(folder, "gather_calibration")
    config = complete(**shards.CONFIG | {"trajectories": 30, "steps": 20, "selected_steps": 5})
    found = list_all(config)
    assert found["collect_shard"].jobs == len(shards.SHARDS)
    for name in ("encode_prompts", "collect_shard", "gather_calibration"):
        written = sum(count_held(folder / place) for place in found[name].places)
        assert found[name].disk == pytest.approx(written, rel=0.1), name


def test_statistics_and_packed_weights_of_a_small_run_are_within_ten_percent(quantized_study, embedded):
    config = complete(selected_steps=3, statistics_shards=1)
    packed = quantized_study.quantized / "model.safetensors"
    assert disk.count_packed(config, embedded) == pytest.approx(packed.stat().st_size, rel=0.1)
    blocks = (quantized_study.folder / "adaround").glob("*.safetensors")
    assert disk.count_blocks(config, embedded) == pytest.approx(sum(p.stat().st_size for p in blocks), rel=0.1)


def test_the_merged_statistics_are_counted_to_the_channel(quantized_study, embedded):
    arrays = quantized_study.statistics.with_suffix(".safetensors").stat().st_size
    assert disk.count_statistics(3, 0, embedded) == pytest.approx(arrays, rel=0.1)


def test_a_weight_takes_what_its_rule_says():
    rule = {"bits": 4, "group_size": 64}
    assert disk.count_weight((128, 256), rule) == 128 * 256 // 2 + 128 * 4 * 4
    assert disk.count_weight((128, 256), rule | {"group_size": "row"}) == 128 * 256 // 2 + 128 * 2 * 4
    assert disk.count_weight((128, 256), {"bits": 16}) == 128 * 256 * 2


def test_seconds_go_through_the_measured_points_and_grow_with_the_tokens():
    points = [[410, 1.3], [845, 2.9]]
    assert [work.fit_tokens(points, tokens) for tokens, _ in points] == pytest.approx([1.3, 2.9])
    assert work.fit_tokens(points, 1690) > 2 * 2.9
    assert work.fit_tokens([[36, 0.5]], 72) == pytest.approx(1.0)


def test_the_points_observed_together_are_those_of_the_worker():
    assert stages.OBSERVED_TOGETHER == collect_activations.BATCH


def test_jobs_are_those_of_the_plan():
    config = complete(**SD3, trajectories=1000, prompts_per_shard=16, statistics_shards=3)
    found = list_all(config, [f"prompt {i}" for i in range(1000)])
    parameters = plan.select_parameters("collect_shard", config, [f"prompt {i}" for i in range(1000)])
    assert found["collect_shard"].jobs == len(plan.list_shards(parameters)) == 63
    jobs = {name: found[name].jobs for name in ("optimise_block", "collect_activations", "capture_blocks")}
    assert jobs == {"optimise_block": 24, "collect_activations": 3, "capture_blocks": 2}


def test_a_measured_step_sets_the_hours_in_proportion(large):
    config = complete(**SD3)
    table = work.estimate_rates(config, large)
    here = work.estimate_rates(config, large, table.step / 100)
    assert here.step == pytest.approx(table.step / 100)
    assert here.iteration == pytest.approx(table.iteration / 100)
    assert "measured here" in here.source


def test_what_is_written_already_is_not_needed_again(tmp_path):
    found = list(list_all(complete()).values())
    whole = count_missing(found, tmp_path)
    (tmp_path / "conditioning.safetensors").write_bytes(bytes(10_000))
    assert whole - count_missing(found, tmp_path) == pytest.approx(10_000)


def test_it_prints_every_stage_and_the_total_and_writes_nothing(tmp_path, capsys):
    status, printed, _ = run({"config": [f"results_dir={tmp_path / 'new'}"], "exports": True}, capsys)
    names = [line.split()[0] for line in printed.splitlines()]
    assert status == 0
    assert names[:3] == ["stage", "encode_prompts", "collect_shard"]
    assert {"optimise_block", "decode_latents", "total"} < set(names)
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_too_small_is_refused_in_one_line(tmp_path, capsys):
    free = shutil.disk_usage(tmp_path).free
    rows = free // (100 * 8 * 8 * 16 * 2 * 0.8)  # more states than fit
    status, printed, said = run({"config": [f"results_dir={tmp_path}", f"trajectories={rows:.0f}"]}, capsys)
    assert status == 1
    assert "total" in printed
    assert re.search(rf"results_dir: {tmp_path} needs .* GB more and the disk of {tmp_path} has .* free", said)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"config": ["steps"]}, "not key=value"),
        ({"config": ["step=3"]}, "did you mean steps"),
        ({"configfile": [Path("config/none.yaml")]}, "config/none.yaml"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_in_one_line(words, said, capsys):
    status, _, error = run(words, capsys)
    assert status == 1
    assert said in error
    assert "\n" not in error


def test_the_embedded_model_measures_itself():
    config = complete(steps=2, selected_steps=2, trajectories=2)
    assert 0 < budget.measure_step(config, read_shapes(config)) < 5


@pytest.mark.parametrize("preset", ["sd3-medium", "sd3-medium-512", "calibration-1000"])
def test_the_disk_and_memory_a_preset_names_are_what_the_budget_says(preset):
    path = Path(f"config/{preset}.yaml")
    config, prompts = budget.read_configuration(budget.argparse.Namespace(configfile=[path], config=[]))
    found = list_all(config, prompts).values()
    total, largest = sum(stage.disk for stage in found), max(stage.memory for stage in found)
    disk_named, memory_named = (re.search(rf"{words} (\d+) GB", path.read_text())[1] for words in ("disk", "at most"))
    assert yaml.safe_load(path.read_text())["results_dir"] == f"results/{preset}"
    assert float(disk_named) == pytest.approx(total / 1e9, abs=1)
    if read_shapes(config).itemsize == 4:  # a CPU
        assert float(memory_named) == pytest.approx(largest / 1e9, abs=1)
