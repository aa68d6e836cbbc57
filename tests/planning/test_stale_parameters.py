"""Parameter files of copied results, which Snakemake has no record of, are written again when they are stale."""

import subprocess
from pathlib import Path

import pytest

from taqmlx.planning import ablation, block_plan, configuration, plan, stale_parameters, variants
from taqmlx.store.files import write_json

PROMPTS = ["a red circle", "a blue square"]
CONFIG = configuration.complete({}, configuration.load_schema())
RUNG = next(iter(variants.RUNGS))
SMALLER = CONFIG | {"bits_per_weight": 3.5}


def select_block(config):
    return block_plan.select_block(plan.select_parameters("optimise_block", config, []), "mm_00")


FILES = {
    "distil.json": plan.select_parameters("distil", CONFIG, PROMPTS),
    "collect_shard.json": plan.select_parameters("collect_shard", CONFIG, PROMPTS),
    "optimise_block/mm_00.json": select_block(CONFIG),
    f"ladder/{RUNG}/mm_00.json": select_block(variants.change(CONFIG, RUNG)),
    "evaluation/generate_images.json": plan.select_parameters("generate_images", CONFIG, PROMPTS),
    "ablation/generate_images.json": plan.select_parameters("generate_images", ablation.change(CONFIG), PROMPTS),
    "ablation/write_evaluation_prompts.json": plan.select_parameters(
        "write_evaluation_prompts", ablation.change(CONFIG), PROMPTS
    ),
    "frontier/3.5/distil.json": plan.select_parameters("distil", SMALLER, PROMPTS),
    "frontier/3.5/blocks/mm_00.json": select_block(SMALLER),
}


@pytest.fixture
def results(tmp_path):
    """Parameter files of every kind, as CONFIG gives them."""
    for name, parameters in FILES.items():
        (tmp_path / "params" / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(tmp_path / "params" / name, parameters)
    return tmp_path


def find(results, **changes):
    found = stale_parameters.find_stale(results, CONFIG | changes, PROMPTS)
    return [path.relative_to(results / "params").as_posix() for path in found]


def test_files_of_the_same_configuration_are_not_stale(results):
    assert find(results) == []


@pytest.mark.parametrize(
    ("key", "value", "stale"),
    [
        ("distil_iterations", 7, ["distil.json", "frontier/3.5/distil.json"]),
        ("evaluation_steps", 3, ["ablation/generate_images.json", "evaluation/generate_images.json"]),
        ("ablation_pictures", 3, ["ablation/write_evaluation_prompts.json"]),
        ("cfg_scale", 2.0, ["collect_shard.json"]),
    ],
)
def test_a_changed_key_makes_the_files_stale_that_hold_it(results, key, value, stale):
    assert sorted(find(results, **{key: value})) == stale


def test_another_version_of_a_stage_is_stale(results):
    write_json(results / "params/distil.json", FILES["distil.json"] | {"version": 0})
    assert find(results) == ["distil.json"]


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_file_is_stale(results, content):
    (results / "params/distil.json").write_text(content, encoding="utf-8")
    assert find(results) == ["distil.json"]


@pytest.mark.parametrize("name", ["unknown.json", "optimise_block/mm_99.json", "ladder/unknown/mm_00.json", "x/y.json"])
def test_files_that_the_configuration_has_no_use_for_are_left_alone(results, name):
    path = results / "params" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("{}", encoding="utf-8")
    assert find(results) == []


@pytest.mark.parametrize(("iterations", "planned"), [(CONFIG["distil_iterations"], False), (7, True)])
def test_snakemake_writes_a_stale_file_of_copied_results_again(python, tmp_path, iterations, planned):
    own = configuration.load({"results_dir": str(tmp_path)})[0]
    path = tmp_path / "params" / "distil.json"
    path.parent.mkdir()
    write_json(path, plan.select_parameters("distil", own, []))
    command = [python, "-m", "snakemake", "-n", "--cores", "1", str(path), "--config"]
    command += [f"results_dir={tmp_path}", f"distil_iterations={iterations}"]
    said = subprocess.run(command, cwd=Path.cwd(), capture_output=True, text=True, check=True)
    assert ("rule write_parameters:" in said.stdout + said.stderr) == planned
