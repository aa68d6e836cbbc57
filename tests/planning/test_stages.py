"""The parameters of every stage: read with their types, written byte for byte, and each key once."""

import ast
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import pytest

from taqmlx.planning import block_plan, configuration, plan
from taqmlx.planning.evaluation_stages import Score
from taqmlx.planning.json_types import fits
from taqmlx.planning.stage_groups import ModelOptions, list_fields
from taqmlx.planning.stages import BLOCK_PARAMETERS, PARAMETERS, CaptureBlocks, CaptureParameters, CollectShard
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.parameters import read_block_parameters, read_parameters

PROMPTS = ["a red circle", "l'été"]
SCHEMA = configuration.load_schema()
MODELS = {"embedded": {}, "embedded-hard": {}, "sd3-medium": {}, "flux-schnell": {"cfg_scale": 1, "evaluation_cfg": 1}}
RULES = {
    "weights": [{"layers": "*", "bits": 4, "group_size": "row"}, {"layers": "*adaLN*", "bits": 16}],
    "activations": [{"layers": "*", "bits": 8, "policy": "dynamic", "group_size": 32}, {"layers": "*fc2", "bits": 6}],
}
OPTIONS = {field.name for field in fields(ModelOptions)}
COMMANDS = sorted(Path("workflow_scripts").rglob("*.py"))


def complete(**changes):
    return configuration.complete(changes, SCHEMA)


def write(folder, stage, **changes):
    path = folder / f"{stage}.json"
    write_json(path, plan.select_parameters(stage, complete(**changes), PROMPTS))
    return path


# Keys


def list_kinds(stage):
    """The dataclasses of a stage; a block's job has one for each engine."""
    return [PARAMETERS[stage], *(BLOCK_PARAMETERS.values() if stage == "optimise_block" else ())]


@pytest.mark.parametrize("stage", plan.STAGES)
def test_every_key_of_a_stage_is_a_field_and_every_field_a_key(stage):
    keys = set(plan.STAGES[stage][1])
    keys |= OPTIONS if stage in plan.LOADS_MODEL else set()
    keys |= {"prompts"} if stage in plan.READS_PROMPTS else set()
    optional = {key for key, (_, stages) in plan.OPTIONAL.items() if stage in stages}
    own = {field.name for field in fields(PARAMETERS[stage])}
    assert own - optional == keys
    assert optional <= {field.name for kind in list_kinds(stage) for field in fields(kind)}
    assert keys | optional <= complete().keys()


@pytest.mark.parametrize("stage", plan.STAGES)
def test_an_optional_key_is_absent_at_its_default(stage):
    defaults = {field.name: field.default for kind in list_kinds(stage) for field in fields(kind)}
    for key, (default, stages) in plan.OPTIONAL.items():
        assert stage not in stages or defaults[key] == default == complete()[key]


@pytest.mark.parametrize("stage", plan.STAGES)
def test_the_default_of_every_key_has_the_type_of_its_field(stage):
    kinds, config = get_type_hints(PARAMETERS[stage]), complete()
    assert [key for key in plan.STAGES[stage][1] if not fits(config[key], kinds[key])] == []


def test_the_options_of_a_model_are_the_keys_of_some_model():
    assert OPTIONS | {plan.WEIGHTS_FROM} == {key for keys in plan.MODEL_KEYS.values() for key in keys}


@pytest.mark.parametrize("engine", plan.ENGINES)
def test_the_settings_of_an_engine_are_fields_of_its_job(engine):
    names = set(list_fields(BLOCK_PARAMETERS[engine]))
    config = complete(engine=engine, model="embedded")
    assert names - {"block", "layers"} == set(plan.list_keys("optimise_block", config)) - {"weights", "activations"}


@pytest.mark.parametrize("stage", plan.STAGES)
def test_the_name_of_a_stage_is_that_of_its_parameters(stage):
    assert PARAMETERS[stage].stage == stage
    assert PARAMETERS[stage].__name__.lower() == stage.replace("_", "")
    assert plan.STAGES[stage][0] == PARAMETERS[stage].version


# Files


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stage", sorted(plan.STAGES.keys() - {"optimise_block"}))
def test_a_file_that_is_read_is_written_byte_for_byte(tmp_path, stage, model):
    path = write(tmp_path, stage, model=model, **MODELS[model], **RULES)
    parameters = read_parameters(PARAMETERS[stage], path)
    write_json(tmp_path / "again.json", parameters.encode())
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("engine", plan.ENGINES)
def test_the_file_of_a_block_is_written_byte_for_byte(tmp_path, engine):
    stage = plan.select_parameters("optimise_block", complete(engine=engine, **RULES), [])
    write_json(tmp_path / "mm_01.json", block_plan.select_block(stage, "mm_01"))
    job = read_block_parameters(tmp_path / "mm_01.json", "mm_01")
    assert type(job) is BLOCK_PARAMETERS[engine]
    write_json(tmp_path / "again.json", job.encode())
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "mm_01.json").read_bytes()


def test_a_whole_number_stays_whole_where_a_fraction_may_be():
    parameters = plan.select_stage(CollectShard, complete() | {"cfg_scale": 3}, PROMPTS)
    assert type(parameters.cfg_scale) is int


def test_a_job_adds_its_share_to_the_parameters_of_its_stage():
    parameters = plan.select_stage(CollectShard, complete(trajectories=5, prompts_per_shard=1), PROMPTS)
    job = plan.select_shard(parameters, "001")
    assert (job.shard, job.prompts, job.rows) == ("001", PROMPTS[1:], [[1, 1], [3, 1]])
    kept = {key: value for key, value in parameters.encode().items() if key in job.encode()} | {"prompts": PROMPTS[1:]}
    assert job.encode() == kept | {"shard": "001", "rows": job.rows}
    captured = plan.select_stage(CaptureBlocks, complete(), [])
    part = CaptureParameters(**vars(captured), shard="00", points=[2, 5])
    assert part.encode() == captured.encode() | {"shard": "00", "points": [2, 5]}


def test_parameters_cannot_be_changed():
    parameters = plan.select_stage(Score, complete(), [])
    with pytest.raises(AttributeError):
        parameters.evaluation_seed = 1
    assert replace(parameters, evaluation_seed=1).evaluation_seed == 1


# What is not right is named


def refuse(path, kind=CollectShard):
    with pytest.raises(UserError) as caught:
        read_parameters(kind, path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert said.endswith("delete it and run again")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance": 3}, "guidance is unknown"),
        ({"steps": None}, "steps has a value of another type"),
        ({"steps": "100"}, "steps has a value of another type"),
        ({"steps": 2.5}, "steps has a value of another type"),
        ({"steps": True}, "steps has a value of another type"),
        ({"cfg_scale": True}, "cfg_scale has a value of another type"),
        ({"prompts": "a red circle"}, "prompts has a value of another type"),
        ({"prompts": ["a", 1]}, "prompts has a value of another type"),
        ({"height": "512"}, "height has a value of another type"),
    ],
)
def test_a_key_that_is_unknown_or_of_another_type_is_named(tmp_path, changes, words):
    path = write(tmp_path, "collect_shard")
    write_json(path, read_json(path) | changes)
    assert words in refuse(path)


def test_a_missing_key_is_named(tmp_path):
    path = write(tmp_path, "collect_shard")
    write_json(path, {key: value for key, value in read_json(path).items() if key != "seed"})
    assert "seed is missing" in refuse(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage": "score"}, "belongs to the stage score, not collect_shard"),
        ({"version": 0}, "belongs to the version 0, not 1"),
    ],
)
def test_another_stage_and_another_version_are_named(tmp_path, changes, words):
    path = write(tmp_path, "collect_shard")
    write_json(path, read_json(path) | changes)
    assert words in refuse(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "awq"}, "engine is missing or unknown"),
        ({"engine": "rtn"}, "adaround_batch is unknown"),
        ({"layers": {"mm_00.image.attn.q_proj": {"weight": {"bits": 4}}}}, "layers has a value of another type"),
        ({"block_inputs": "exact"}, "block_inputs has a value of another type"),
    ],
)
def test_the_file_of_a_block_is_checked_too(tmp_path, changes, words):
    path, stage = tmp_path / "mm_01.json", plan.select_parameters("optimise_block", complete(), [])
    write_json(path, block_plan.select_block(stage, "mm_01") | changes)
    with pytest.raises(UserError, match=words):
        read_block_parameters(path, "mm_01")


def test_the_file_of_another_block_is_named(tmp_path):
    path, stage = tmp_path / "mm_01.json", plan.select_parameters("optimise_block", complete(), [])
    write_json(path, block_plan.select_block(stage, "mm_01"))
    with pytest.raises(UserError, match="belongs to the block mm_01, not mm_02"):
        read_block_parameters(path, "mm_02")


# No dictionary


def list_subscripts(path):
    """Lines on which a name that holds parameters is subscripted with a string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            is_text = isinstance(node.slice, ast.JoinedStr) or (
                isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
            )
            if node.value.id in ("parameters", "stage", "job") and is_text:
                yield f"{path}:{node.lineno}"


def list_readers(path):
    """Lines on which a parameter file is read as a dictionary."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_json":
            asks_stage = any(keyword.arg == "stage" for keyword in node.keywords)
            reads_params = any(isinstance(n, ast.Attribute) and n.attr == "params" for n in ast.walk(node))
            if asks_stage or reads_params:
                yield f"{path}:{node.lineno}"


def test_no_command_reads_its_parameters_as_a_dictionary():
    assert len(COMMANDS) > 50
    assert [line for path in COMMANDS for search in (list_subscripts, list_readers) for line in search(path)] == []


def test_a_subscript_and_a_reader_would_be_found(tmp_path):
    path = tmp_path / "command.py"
    path.write_text('parameters = read_json(arguments.params)\nprint(parameters["seed"], parameters[f"{a}"])\n')
    assert len(list(list_subscripts(path))) == 2
    assert len(list(list_readers(path))) == 1
