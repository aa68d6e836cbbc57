"""The budget agrees with what a small run writes and what the rules plan, and rejects what does not fit."""

import math
import re
import shutil
from pathlib import Path

import psutil
import pytest
import yaml

from taqmlx.budgeting import disk, jobs, work
from taqmlx.budgeting.shapes import read_shapes
from taqmlx.budgeting.stages import count_held, count_missing, list_stages
from taqmlx.planning import configuration, plan
from taqmlx.planning.sizes import read_sizes
from taqmlx.planning.stages import CollectShard
from taqmlx.store import block_inputs
from tools.small_results import shards
from tools.small_results.presets import PAPER
from workflow_scripts.activations import collect_activations
from workflow_scripts.tools import budget

PRESETS = ["sd3-medium", "sd3-medium-evening", "sd3-medium-512", "calibration-1000", "sd3.5-large", "flux-schnell"]
SD3 = {"model": "sd3-medium", "height": 256, "width": 256}


def complete(**values):
    return configuration.complete(values, configuration.load_schema())


def list_all(config, prompts=shards.PROMPTS):
    shapes = read_shapes(config)
    return {s.name: s for s in list_stages(config, prompts, shapes, work.estimate_rates(config, shapes.sizes))}


@pytest.fixture(scope="module")
def embedded():
    return read_shapes(complete())


@pytest.fixture(scope="module")
def large():
    return read_shapes(complete(**SD3))


def run(parser_words, capsys):
    """The exit status of the entry, and what it printed and said."""
    absent = dict.fromkeys(("log", "device", "hours", "disk", "out"))
    arguments = {"configfile": [], "config": [], "exports": False, "measure": False, "evening": False} | absent
    try:
        budget.main(budget.argparse.Namespace(**arguments | parser_words))
    except budget.UserError as error:
        return 1, capsys.readouterr().out, str(error)
    return 0, capsys.readouterr().out, ""


def test_sd3_medium_has_its_published_shapes(large):
    assert large.parameters == pytest.approx(2.08e9, rel=0.01)
    assert (large.latent, large.image, large.text) == ((32, 32, 16), (256, 1536), (589, 1536))
    assert sum(layer.block != "" and layer.role != "adaLN" for layer in large.layers) == 285


@pytest.mark.parametrize(
    "values",
    [
        {},
        SD3,
        {"model": "sd3-medium", "use_t5": False},
        {"model": "sd3.5-large"},
        {"model": "flux-schnell", "cfg_scale": 1, "evaluation_cfg": 1},
    ],
)
def test_planning_knows_model_sizes_without_loading_the_models(values):
    config = complete(**values)
    assert read_shapes(config).sizes._replace(itemsize=4) == read_sizes(config)


@pytest.mark.parametrize(
    ("model", "parameters", "image", "text", "conditions"),
    # 3.5 Large with its table of positions, which are no parameters elsewhere
    [("sd3.5-large", 8.15e9, (256, 2432), (589, 2432), 2), ("flux-schnell", 11.9e9, (256, 3072), (256, 3072), 1)],
)
def test_the_larger_models_have_their_published_shapes(model, parameters, image, text, conditions):
    guidance = {"cfg_scale": 1, "evaluation_cfg": 1} if conditions == 1 else {}
    shapes = read_shapes(complete(**SD3 | guidance | {"model": model}))
    assert shapes.parameters == pytest.approx(parameters, rel=0.01)
    assert (shapes.image, shapes.text, shapes.conditions) == (image, text, conditions)


def test_without_guidance_steps_take_half_the_time_and_rows_half_the_space():
    """For two models that differ in nothing else."""
    shapes, config = read_shapes(complete(**SD3)), complete(**SD3)
    alone = shapes._replace(conditions=1)
    steps = [work.estimate_rates(config, each.sizes).step for each in (alone, shapes)]
    assert steps[0] == pytest.approx(steps[1] / 2)
    every = range(24)
    assert disk.count_captured(64, every, 24, alone) == pytest.approx(
        disk.count_captured(64, every, 24, shapes) / 2, rel=0.001
    )


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
    config = complete(**PAPER, selected_steps=3, statistics_shards=1)
    packed = quantized_study.quantized / "model.safetensors"
    assert disk.count_packed(config, embedded) == pytest.approx(packed.stat().st_size, rel=0.1)
    blocks = (quantized_study.folder / "adaround").glob("*.safetensors")
    assert disk.count_blocks(config, embedded) == pytest.approx(sum(p.stat().st_size for p in blocks), rel=0.1)


def test_the_merged_statistics_are_counted_to_the_channel(quantized_study, embedded):
    arrays = quantized_study.statistics.with_suffix(".safetensors").stat().st_size
    assert disk.count_statistics(3, 0, embedded) == pytest.approx(arrays, rel=0.1)


def test_the_size_of_a_weight_follows_from_its_rule():
    rule = {"bits": 4, "group_size": 64}
    assert disk.count_weight((128, 256), rule, None) == 128 * 256 // 2 + 128 * 4 * 4
    assert disk.count_weight((128, 256), rule | {"group_size": "row"}, None) == 128 * 256 // 2 + 128 * 2 * 4
    assert disk.count_weight((128, 256), {"bits": 16}, None) == 128 * 256 * 2


def test_with_a_bit_search_a_quantized_weight_takes_its_share_of_the_size():
    assert disk.count_weight((128, 256), {"bits": 8, "group_size": 64}, 3.5) == 128 * 256 * 3.5 / 8
    assert disk.count_weight((128, 256), {"bits": 16}, 3.5) == 128 * 256 * 2


def test_packed_weights_have_the_configured_size(embedded):
    small, large = (disk.count_packed(complete(bits_per_weight=size), embedded) for size in (4, 6))
    linears = sum(math.prod(shape) for shape in embedded.weights.values())
    assert large - small == pytest.approx(linears * 2 / 8, rel=1e-4)


def test_seconds_interpolate_the_measured_points_and_grow_with_the_tokens():
    points = [[410, 1.3], [845, 2.9]]
    assert [work.fit_tokens(points, tokens) for tokens, _ in points] == pytest.approx([1.3, 2.9])
    assert work.fit_tokens(points, 1690) > 2 * 2.9
    assert work.fit_tokens([[36, 0.5]], 72) == pytest.approx(1.0)


def test_batch_sizes_are_those_of_the_workers():
    assert jobs.OBSERVED_BATCH == collect_activations.BATCH
    assert jobs.CAPTURED_BATCH == block_inputs.BATCH


def test_jobs_are_those_of_the_plan():
    config = complete(**SD3, trajectories=1000, prompts_per_shard=16, statistics_shards=3)
    found = list_all(config, [f"prompt {i}" for i in range(1000)])
    parameters = plan.select_stage(CollectShard, config, [f"prompt {i}" for i in range(1000)])
    assert found["collect_shard"].jobs == len(plan.list_shards(parameters)) == 63
    jobs = {name: found[name].jobs for name in ("optimise_block", "collect_activations", "capture_blocks")}
    assert jobs == {"optimise_block": 24, "collect_activations": 3, "capture_blocks": 2}
    assert [found[name].jobs for name in ("measure_costs", "round_shared", "distil", "pack_weights")] == [1] * 4


def test_of_groups_of_blocks_the_rows_of_the_largest_lie_on_disk(large):
    one, five = (complete(**SD3, capture_groups=groups) for groups in (1, 5))
    stored = disk.count_rows(five, 64, large)
    assert stored == disk.count_captured(64, range(4, 9), 24, large) > disk.count_captured(64, range(19, 24), 24, large)
    assert 5 / 24 < stored / disk.count_rows(one, 64, large) < 7 / 24
    chained = five | {"block_inputs": "quantized"}
    assert disk.count_rows(chained, 64, large) == stored + disk.count_captured(64, range(4), 24, large)
    assert disk.count_rows(one | {"block_inputs": "quantized"}, 64, large) == disk.count_rows(one, 64, large)


def test_groups_of_blocks_repeat_the_forward_of_the_blocks_before_them():
    one, four = (list_all(complete(**SD3, capture_groups=groups)) for groups in (1, 4))
    found = {name: getattr(four["capture_blocks"], name) for name in ("jobs", "forwards", "flop")}
    wanted = {name: getattr(one["capture_blocks"], name) for name in found}
    assert found["jobs"] == 4 * wanted["jobs"]
    assert (found["forwards"], found["flop"]) == pytest.approx((2.5 * wanted["forwards"], 2.5 * wanted["flop"]))
    assert {name: stage for name, stage in four.items() if name != "capture_blocks"} == {
        name: stage for name, stage in one.items() if name != "capture_blocks"
    }


def test_a_disabled_part_has_no_stage():
    stages = set(list_all(complete()))
    assert set(list_all(complete(bits_per_weight=None))) == stages - {"measure_costs"}
    assert set(list_all(complete(distil="none"))) == stages - {"distil"}


@pytest.mark.parametrize(
    ("key", "rule"),
    [("search_points", "measure_costs"), ("search_probes", "measure_costs"), ("distil_iterations", "distil")],
)
def test_a_stage_with_more_work_takes_longer(key, rule):
    less, more = (list_all(complete(**SD3, **{key: value}))[rule].seconds for value in (40, 400))
    assert (1.02 if key == "search_points" else 1.5) * less < more < 10.5 * less


def test_learned_codes_take_memory():
    scales, codes = (list_all(complete(**SD3, distil=kind))["distil"].memory for kind in ("scales", "codes"))
    assert scales < 0.6 * codes


def test_requests_to_a_scheduler_exceed_the_estimate_and_grow_per_attempt_up_to_a_limit():
    job = jobs.Jobs(1, 7200.0, 20e9)
    memory, minutes = ([ask(job, attempt) for attempt in (1, 2, 3, 50)] for ask in (jobs.ask_memory, jobs.ask_minutes))
    assert memory[0] > 20e9 / 1e6
    assert minutes[0] > 7200 / 60
    assert memory[1:] == [2 * memory[0], 3 * memory[0], 3 * memory[0]]
    assert minutes[1:] == [2 * minutes[0], 3 * minutes[0], 3 * minutes[0]]


def test_hours_are_proportional_to_the_measured_step(large):
    config = complete(**SD3)
    table = work.estimate_rates(config, large.sizes)
    here = work.estimate_rates(config, large.sizes, table.step / 100)
    assert here.step == pytest.approx(table.step / 100)
    assert here.iteration == pytest.approx(table.iteration / 100)
    assert "measured here" in here.source


def test_existing_output_needs_no_more_disk(tmp_path):
    found = list(list_all(complete()).values())
    whole = count_missing(found, tmp_path)
    (tmp_path / "conditioning.safetensors").write_bytes(bytes(10_000))
    assert whole - count_missing(found, tmp_path) == pytest.approx(10_000)


def test_the_command_prints_every_stage_and_the_total_and_writes_nothing(tmp_path, capsys):
    status, printed, _ = run({"config": [f"results_dir={tmp_path / 'new'}"], "exports": True}, capsys)
    names = [line.split()[0] for line in printed.splitlines() if line]
    assert status == 0
    assert names[:3] == ["stage", "encode_prompts", "collect_shard"]
    assert {"optimise_block", "decode_latents", "total"} < set(names)
    assert not (tmp_path / "new").exists()


def test_the_folder_for_mflux_is_in_the_disk_of_its_layout(tmp_path, capsys):
    flux = {"configfile": [Path("config/flux-schnell.yaml")]}
    keys = [f"results_dir={tmp_path}", "scale_dtype=bfloat16"]
    _, plain, _ = run(flux | {"config": keys}, capsys)
    _, printed, _ = run(flux | {"config": [*keys, "layout=mflux"]}, capsys)
    (line,) = (line.split() for line in printed.splitlines() if line.startswith("export_mflux"))
    (packed,) = (line.split() for line in printed.splitlines() if line.startswith("pack_weights"))
    assert line[-2:] == packed[-2:]
    assert float(line[-2]) > 5  # GB
    assert "export_mflux" not in plain


def test_a_disk_that_is_too_small_is_rejected_in_one_line(tmp_path, capsys):
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
def test_an_invalid_configuration_is_rejected_in_one_line(words, said, capsys):
    status, _, error = run(words, capsys)
    assert status == 1
    assert said in error
    assert "\n" not in error


def test_the_embedded_model_can_be_measured():
    config = complete(steps=2, selected_steps=2, trajectories=2)
    assert 0 < budget.measure_step(config, read_shapes(config)) < 5


def test_measured_hours_are_those_of_this_machine(tmp_path, capsys):
    config = [f"results_dir={tmp_path / 'new'}", "trajectories=2", "steps=2", "selected_steps=2"]
    status, printed, _ = run({"config": config, "measure": True}, capsys)
    assert status == 0
    assert "hours: one job at a time, measured here" in printed


def test_measuring_needs_the_memory_of_a_step(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: budget.argparse.Namespace(total=10**7, available=10**7))
    config = complete(steps=2, selected_steps=2, trajectories=2)
    with pytest.raises(budget.UserError, match="measuring a step takes about"):
        budget.measure_step(config, read_shapes(config))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_disk_and_memory_in_a_preset_are_those_of_the_budget(preset):
    path = Path(f"config/{preset}.yaml")
    config, prompts = budget.read_configuration(budget.argparse.Namespace(configfile=[path], config=[]))
    found = list_all(config, prompts).values()
    total, largest = sum(stage.disk for stage in found), max(stage.memory for stage in found)
    comments = re.sub(r"\s+#?\s*", " ", path.read_text())
    disk_named, memory_named = (re.search(rf"{words} (\d+) GB", comments)[1] for words in ("disk", "at most"))
    assert yaml.safe_load(path.read_text())["results_dir"] == f"results/{preset}"
    assert float(disk_named) == pytest.approx(total / 1e9, abs=1)
    if read_shapes(config).itemsize == 4:  # a CPU
        assert float(memory_named) == pytest.approx(largest / 1e9, abs=1)
