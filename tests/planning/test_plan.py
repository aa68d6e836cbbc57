"""The plan: parameters, shards, names, and conflicts with finished work."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taqmlx.planning import configuration, plan
from taqmlx.planning.stages import CollectShard
from taqmlx.store.seal import make_seal

CONFIG = {
    "model": "embedded",
    "negative_prompt": "",
    "trajectories": 7,
    "steps": 4,
    "seed": 0,
    "cfg_scale": 1.5,
    "prompts_per_shard": 1,
    "batch_size": 16,
    "checkpoint_every": 2,
}
PROMPTS = ["one", "two", "three"]


def shard_parameters(**changes):
    return plan.select_stage(CollectShard, CONFIG | changes, PROMPTS)


def test_trajectory_j_uses_prompt_j_mod_p_and_every_trajectory_has_one_shard():
    parameters = shard_parameters()
    rows = [row for shard in plan.list_shards(parameters) for row in plan.select_shard(parameters, shard).rows]
    assert sorted(j for j, _ in rows) == list(range(7))
    assert all(prompt == j % 3 for j, prompt in rows)


def test_a_shard_may_cover_a_run_of_prompts():
    parameters = shard_parameters(prompts_per_shard=2)
    assert plan.list_shards(parameters) == ["000", "001"]
    assert plan.select_shard(parameters, "000").prompts == ["one", "two"]
    assert plan.select_shard(parameters, "001").rows == [[2, 2], [5, 2]]


def test_prompts_beyond_the_number_of_trajectories_are_ignored():
    assert plan.list_shards(shard_parameters(trajectories=2)) == ["000", "001"]


def test_a_stage_reads_only_its_own_keys():
    config = CONFIG | {"weights": [], "activations": [], "bits_per_weight": None}
    assert "steps" not in plan.select_parameters("pack_weights", config, PROMPTS)
    assert plan.select_parameters("encode_prompts", config, PROMPTS)["prompts"] == PROMPTS


@pytest.mark.parametrize(
    ("engine", "read", "not_read"),
    [
        ("rtn", ("held_out",), ("gptq_damping", "adaround_rate", "reconstruction")),
        ("gptq", ("gptq_damping",), ("adaround_rate", "reconstruction")),
        ("adaround", ("gptq_damping", "adaround_rate", "reconstruction", "adaround_start"), ()),
    ],
)
def test_a_block_reads_only_the_keys_of_its_engine(engine, read, not_read):
    keys = plan.list_keys("optimise_block", {"engine": engine, "model": "embedded"})
    assert set(read) <= set(keys)
    assert not set(not_read) & set(keys)


@pytest.mark.parametrize(("engine", "is_read"), [("rtn", False), ("gptq", False), ("adaround", True)])
def test_patience_is_a_parameter_only_where_it_is_set_and_blocks_learn(engine, is_read):
    config = {"engine": engine, "model": "embedded", "adaround_patience": 3}
    assert ("adaround_patience" in plan.list_keys("optimise_block", config)) == is_read
    assert "adaround_patience" not in plan.list_keys("optimise_block", config | {"adaround_patience": 0})


@pytest.mark.parametrize(("engine", "is_read"), [("rtn", False), ("gptq", False), ("adaround", True)])
def test_the_type_of_products_is_a_parameter_only_where_it_is_not_fp32_and_something_learns(engine, is_read):
    config = {"engine": engine, "model": "embedded", "learning_dtype": "bfloat16"}
    assert ("learning_dtype" in plan.list_keys("optimise_block", config)) == is_read
    assert "learning_dtype" in plan.list_keys("distil", config)
    for stage in plan.STAGES:
        assert "learning_dtype" not in plan.list_keys(stage, config | {"learning_dtype": "float32"})


def test_every_key_of_the_configuration_is_read_by_a_stage_or_by_the_planning():
    optional = {"bias_correction": True, "adaround_patience": 3, "learning_dtype": "float16"}
    config = configuration.complete(optional, configuration.load_schema())
    models = [config | {"model": model} for model in plan.MODEL_KEYS] + [config | {"layout": "mflux"}]
    read = {key for model in models for stage in plan.STAGES for key in plan.list_keys(stage, model)}
    unread = {"results_dir", "trajectories_url", "prompts", "overwrite", "ablation_pictures", "weights_from"}
    unread |= {"capture_groups"}
    unread |= {"frontier_sizes", "scale_dtype"}  # the rules of weights have the latter
    assert config.keys() - read == unread


def test_only_stages_that_load_a_model_read_its_keys():
    made_of = {"use_t5", "height", "width"}
    for stage in plan.STAGES.keys() - {"fetch_weights"}:
        of = {model: set(plan.list_keys(stage, {"model": model, "engine": "rtn"})) for model in plan.MODEL_BLOCKS}
        assert not made_of & of["embedded"]
        assert of["sd3-medium"] - of["embedded"] == (made_of if stage in plan.LOADS_MODEL else set())
        assert of["embedded-hard"] - of["embedded"] == ({"hardness"} if stage in plan.LOADS_MODEL else set())


@pytest.mark.parametrize("model", plan.MODEL_BLOCKS)
@pytest.mark.parametrize("stage", plan.STAGES)
def test_the_values_of_a_stage_on_a_command_line_suffice_for_its_parameters(stage, model):
    config = {key: f"value of {key}" for _, keys in plan.STAGES.values() for key in keys}
    for conditional in (plan.ENGINES, plan.MODEL_KEYS):
        config |= {key: f"value of {key}" for keys in conditional.values() for key in keys}
    config |= {"trajectories": 2, "engine": "adaround", "model": model, "lpips": {"path": "a/b", "sha256": "0"}}
    values = json.loads(plan.encode_values(stage, config))
    assert plan.select_parameters(stage, values, PROMPTS) == plan.select_parameters(stage, config, PROMPTS)


@pytest.mark.parametrize(
    ("stage", "key", "place", "named"),
    [
        ("write_evaluation_prompts", "evaluation_prompts", "/home/me/mine.txt", "mine.txt"),
        ("score", "reference_pictures", "/home/me/pictures", "pictures"),
        ("score", "reference_pictures", None, None),
        (
            "extract_features",
            "inception",
            {"path": "../weights/i.pth", "sha256": "ab"},
            {"path": "i.pth", "sha256": "ab"},
        ),
    ],
)
def test_no_parameter_contains_a_local_path(stage, key, place, named):
    config = configuration.complete({}, configuration.load_schema()) | {key: place}
    assert plan.select_parameters(stage, config, PROMPTS)[key] == named
    values = json.loads(plan.encode_values(stage, config))
    assert values[key] == named
    assert plan.select_parameters(stage, values, PROMPTS)[key] == named


def test_the_location_of_the_weights_is_not_a_parameter():
    config = configuration.complete({"model": "sd3-medium"}, configuration.load_schema())
    moved = config | {"weights_from": "/home/me/sd3"}
    for stage in plan.STAGES:
        assert plan.select_parameters(stage, moved, PROMPTS) == plan.select_parameters(stage, config, PROMPTS)


def test_the_values_on_a_command_line_do_not_depend_on_the_order_of_keys():
    rules = [{"layers": "mm_*", "bits": 4}], [{"bits": 4, "layers": "mm_*"}]
    config = {"model": "embedded", "bits_per_weight": None}
    one, other = (plan.encode_values("pack_weights", config | {"weights": rule}) for rule in rules)
    assert one == other


def test_fingerprints_follow_values_not_their_order():
    assert plan.fingerprint({"a": 1, "b": [2]}) == plan.fingerprint({"b": [2], "a": 1})
    assert plan.fingerprint({"a": 1}) != plan.fingerprint({"a": 2})


@pytest.mark.parametrize(
    ("url", "store"), [(None, "results/a/trajectories.zarr"), ("s3://bucket/run/", "s3://bucket/run")]
)
def test_shards_are_in_the_results_or_at_a_url(url, store):
    assert plan.place_store({"results_dir": "results/a", "trajectories_url": url}) == store


def write_seal(results, shard, sealed):
    group = results / "trajectories.zarr" / shard
    group.mkdir(parents=True)
    (group / "zarr.json").write_text(json.dumps({"attributes": {"seal": make_seal(sealed, {}, {})}}))


def test_finished_shards_of_the_same_parameters_do_not_conflict(tmp_path):
    for shard in plan.list_shards(shard_parameters()):
        write_seal(tmp_path, shard, plan.select_shard(shard_parameters(), shard).encode())
    assert list(plan.find_conflicts(tmp_path, shard_parameters())) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"steps": 5}, "steps: 4 there, 5"), ({"trajectories": 1}, "no such shard"), ({"seed": 3}, "seed: 0 there, 3")],
)
def test_finished_shards_of_other_parameters_are_named_with_the_difference(tmp_path, changes, words):
    write_seal(tmp_path, "001", plan.select_shard(shard_parameters(), "001").encode())
    (conflict,) = plan.find_conflicts(tmp_path, shard_parameters(**changes))
    assert "trajectories.zarr/001" in conflict
    assert words in conflict


def test_a_seal_of_another_shard_is_named(tmp_path):
    write_seal(tmp_path, "001", plan.select_shard(shard_parameters(), "000").encode())
    (conflict,) = plan.find_conflicts(tmp_path, shard_parameters())
    assert conflict.endswith("trajectories.zarr/001 is the shard 000; delete it and run again")


def test_a_damaged_seal_is_named(tmp_path):
    write_seal(tmp_path, "000", None)
    (tmp_path / "trajectories.zarr" / "000" / "zarr.json").write_text("{")
    (conflict,) = plan.find_conflicts(tmp_path, shard_parameters())
    assert "damaged seal" in conflict


def test_blocks_are_numbered_by_kind():
    assert plan.list_block_names("embedded") == ["mm_00", "mm_01", "mm_02", "mm_03", "mm_04"]


def test_the_layers_outside_the_blocks_are_quantized_by_their_own_job():
    assert plan.list_units("embedded") == [*plan.list_block_names("embedded"), "shared"]
    stages = [plan.name_stage(unit) for unit in ("mm_00", "uni_00", "shared", "distilled")]
    assert stages == ["optimise_block", "optimise_block", "round_shared", "distil"]


def test_planning_imports_neither_mlx_nor_zarr_nor_numpy():
    text = Path("rules/common.smk").read_text()
    imports = re.findall(r"^from taqmlx[\w.]* import (?:\([\w,\s]+\)|[\w, ]+)", text, re.MULTILINE)
    assert len(imports) > 3
    code = "\n".join(["import sys", *imports, "print(*sys.modules)"])
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mlx", "mlx.core", "zarr", "numpy", "torch"} & set(modules)
