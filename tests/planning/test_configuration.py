"""The configuration: defaults from one schema, and one line for each invalid value."""

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from taqmlx.planning import configuration

SCHEMA = configuration.load_schema()
PRESETS = sorted(Path("config").glob("*.yaml"))


def test_the_schema_is_valid_and_describes_every_key_with_a_default():
    Draft202012Validator.check_schema(SCHEMA)
    for key, described in SCHEMA["properties"].items():
        assert described["description"], key
        assert "default" in described, key


def test_an_empty_configuration_is_filled_with_the_defaults():
    full = configuration.complete({}, SCHEMA)
    assert full.keys() == SCHEMA["properties"].keys()
    assert (full["trajectories"], full["steps"], full["selected_steps"], full["cfg_scale"]) == (256, 100, 25, 1.5)


def test_a_rule_names_its_stored_type_only_if_that_is_not_fp16():
    """Results of before, whose parameters have no such key, stay valid."""
    rules = [{"layers": "*", "bits": 4}, {"layers": "final_layer.*", "bits": 16}]
    half = configuration.complete({"weights": rules}, SCHEMA)["weights"]
    assert not any("scale_dtype" in rule for rule in half)
    found = configuration.complete({"weights": rules, "scale_dtype": "bfloat16"}, SCHEMA)["weights"]
    assert found == [half[0] | {"scale_dtype": "bfloat16"}, half[1]]


def test_a_completed_configuration_stays_as_it_is():
    full = configuration.complete({"scale_dtype": "bfloat16"}, SCHEMA)
    assert configuration.complete(full, SCHEMA) == full


@pytest.mark.parametrize("path", [p for p in PRESETS if "schema" not in p.name], ids=lambda p: p.stem)
def test_presets_are_valid(path):
    full = configuration.complete(yaml.safe_load(path.read_text()), SCHEMA)
    assert len(configuration.read_prompts(Path(full["prompts"]))) > 0


def test_each_preset_but_the_default_writes_to_a_folder_of_its_own():
    folders = [yaml.safe_load(p.read_text()).get("results_dir") for p in PRESETS if "schema" not in p.name]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("place", "count"),
    [(SCHEMA["properties"]["prompts"]["default"], 256), ("config/prompts/paper.txt", 20)],
)
def test_the_prompts_of_the_embedded_model_are_distinct(place, count):
    prompts = configuration.read_prompts(Path(place))
    assert len(prompts) == len(set(prompts)) == count


def test_the_setting_of_the_paper_is_that_of_the_paper():
    """20 prompts in turn, a block alone after the other, inputs by noise level, and nothing searched or distilled."""
    paper = configuration.complete(read_with_default("paper"), SCHEMA)
    assert [paper[key] for key in ("trajectories", "steps", "selected_steps", "cfg_scale")] == [256, 100, 25, 1.5]
    assert (paper["bits_per_weight"], paper["distil"], paper["prompts_per_shard"]) == (None, "none", 1)
    assert [(rule["layers"], rule["bits"]) for rule in paper["weights"]] == [("mm_*", 4), ("*adaLN_modulation", 8)]
    assert {rule.get("policy") for rule in paper["activations"]} == {"lut", None}
    assert len(configuration.read_prompts(Path(paper["prompts"]))) == 20


def read_with_default(preset: str) -> dict:
    """A preset as `--configfile` has it: over config.yaml, which the Snakefile names."""
    return {
        key: value
        for name in ("config", preset)
        for key, value in yaml.safe_load(Path(f"config/{name}.yaml").read_text()).items()
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"steps": 25, "selected_steps": 26}, "selected_steps: 26 of 25"),
        ({"seed": -1}, "seed: -1"),
        ({"model": "sd9"}, "model: 'sd9'"),
        (
            {"model": "flux-schnell"},
            "cfg_scale: flux-schnell draws without guidance, so 1.5 has no meaning; set it to 1",
        ),
        ({"model": "flux-schnell", "cfg_scale": 1}, "evaluation_cfg: flux-schnell draws without guidance, so 3"),
        (
            {"model": "flux-schnell", "cfg_scale": 1, "evaluation_cfg": 1, "negative_prompt": "blur"},
            "negative_prompt: flux-schnell draws without guidance and reads no negative prompt",
        ),
        ({"trajectories": 2.5}, "trajectories: 2.5"),
        ({"trajectories": "many"}, "trajectories: 'many'"),
        ({"cfg_scale": 0}, "cfg_scale: 0"),
        ({"steps": None}, "steps: None"),
        ({"prompts": ""}, "prompts"),
        ({"overwrite": "maybe"}, "overwrite: 'maybe'"),
        ({"cfg_scale": float("nan")}, "cfg_scale: nan"),
        ({"adaround_rate": "fast"}, "adaround_rate: 'fast'"),
        ({"adaround_beta": [20]}, "adaround_beta: [20] is too short"),
        ({"adaround_beta": [20, float("inf")]}, "adaround_beta.1: inf"),
        ({"held_out": 1.0}, "held_out: 1.0"),
        ({"engine": "adarond"}, "engine: 'adarond' is not one of ['rtn', 'gptq', 'adaround']"),
        ({"weights": [{"layers": "*", "bits": 9}]}, "weights.0.bits: 9"),
        ({"weights": [{"layers": "*", "bits": 4, "group_size": 48}]}, "weights.0.group_size: 48"),
        ({"weights": [{"layers": "*", "bits": 4}, {"bits": 8}]}, "weights.1: 'layers'"),
        ({"weights": "mm_*"}, "weights: 'mm_*'"),
        ({"activations": [{"layers": "*", "bits": 8, "policy": "magic"}]}, "activations.0.policy: 'magic'"),
        ({"activations": [{"layers": "*", "bits": 8, "migration": "yes"}]}, "activations.0.migration: 'yes'"),
        ({"activations": [{"layers": "*", "bits": 8, "shfit": True}]}, "activations.0: "),
        ({"steps": 9, "selected_steps": 9, "capture_points": 8}, "capture_points: 8 is too few for 9 selected steps"),
        ({"statistics_points": 24}, "statistics_points: 24 is too few for the 25 steps"),
        ({"statistics_points": 3, "statistics_steps": 8}, "statistics_points: 3 is too few for the 4 steps"),
        ({"step": 3}, "step: unknown key; did you mean steps?"),
        ({"cfg": 3}, "cfg: unknown key; did you mean cfg_scale?"),
        ({"bits_per_weight": 2}, "bits_per_weight: 2 is not valid"),
        ({"bits_per_weight": 17}, "bits_per_weight: 17 is not valid"),
        ({"bits_per_weight": "few"}, "bits_per_weight: 'few' is not valid"),
        ({"search_probes": 0}, "search_probes: 0"),
        ({"search_points": 0}, "search_points: 0"),
        ({"distil": "everything"}, "distil: 'everything' is not one of ['codes', 'scales', 'none']"),
        ({"distil_unroll": 9}, "distil_unroll: 9"),
        ({"distil_rate": -1}, "distil_rate: -1"),
        ({"activations": [{"layers": "*", "bits": 8, "group_size": 48}]}, "activations.0.group_size: 48"),
        ({"activations": [{"layers": "*", "bits": 8, "group_size": "row"}]}, "activations.0.group_size: 'row'"),
        ({"mixed_bits_budget": 4}, "mixed_bits_budget: unknown key"),
    ],
)
def test_bad_values_are_rejected_in_one_line_that_names_the_key(changes, words):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        configuration.complete(changes, SCHEMA)
    assert words in str(caught.value)


MIGRATING = {"layers": "*.fc2", "bits": 8, "migration": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "rtn", "activations": [MIGRATING]}, "the engine rtn does not"),
        ({"engine": "gptq", "activations": [MIGRATING]}, "the engine gptq does not"),
        ({"activations": [MIGRATING | {"policy": "dynamic"}]}, "the policy dynamic has none"),
        ({"activations": [MIGRATING | {"policy": "affine"}]}, "the policy affine has none"),
    ],
)
def test_a_migration_that_cannot_be_learned_is_rejected_in_one_line_with_the_cure(changes, words):
    with pytest.raises(
        ValueError, match=r"^activations: the migration of \*\.fc2 [^\n]+ set migration to false"
    ) as caught:
        configuration.complete(changes, SCHEMA)
    assert words in str(caught.value)


@pytest.mark.parametrize("changes", [{}, {"policy": "static"}, {"bits": 16, "policy": "dynamic"}])
def test_a_migration_that_can_be_learned_is_accepted(changes):
    configuration.complete({"activations": [MIGRATING | changes]}, SCHEMA)


def test_one_point_per_step_suffices():
    few = {"selected_steps": 9, "capture_points": 9, "statistics_points": 5, "statistics_steps": 2}
    assert configuration.complete(few, SCHEMA)["capture_points"] == 9


def test_a_rule_gets_defaults_for_missing_keys():
    rules = [{"layers": "mm_*", "bits": 4}, {"layers": "*fc2", "bits": 6, "group_size": "row", "symmetric": True}]
    first, second = configuration.complete({"weights": rules}, SCHEMA)["weights"]
    fields = SCHEMA["properties"]["weights"]["items"]["properties"]
    assert first == rules[0] | {key: fields[key]["default"] for key in ("group_size", "symmetric", "range")}
    assert second == rules[1] | {"range": fields["range"]["default"]}


def test_the_other_keys_of_a_rule_with_16_bits_are_ignored():
    rules = [{"layers": "mm_*", "bits": 16}, {"layers": "mm_*", "bits": 16, "group_size": 32, "symmetric": True}]
    first, second = configuration.complete({"weights": rules}, SCHEMA)["weights"]
    assert first == second == rules[0]


def test_completing_a_configuration_twice_changes_nothing():
    full = configuration.complete({"activations": [{"layers": "*", "bits": 8}], "adaround_rate": 1}, SCHEMA)
    assert configuration.complete(full, SCHEMA) == full


def test_equal_values_have_one_spelling():
    rules = [{"layers": "*", "bits": 4.0, "group_size": 64.0}]
    written = {"cfg_scale": 3, "steps": 30.0, "results_dir": "out/", "adaround_beta": [20.0, 2], "weights": rules}
    full = configuration.complete(written | {"statistics_steps": 5.0, "adaround_rate": "1e-3"}, SCHEMA)
    names = ("cfg_scale", "steps", "results_dir", "adaround_beta", "statistics_steps", "adaround_rate")
    assert [str(full[name]) for name in names] == ["3.0", "30", "out", "[20, 2]", "5", "0.001"]
    assert [str(full["weights"][0][key]) for key in ("bits", "group_size")] == ["4", "64"]


@pytest.mark.parametrize(("word", "value"), [("true", True), ("false", False), (True, True)])
def test_booleans_can_be_given_on_the_command_line(word, value):
    assert configuration.complete({"overwrite": word}, SCHEMA)["overwrite"] is value


@pytest.mark.parametrize("key", ["weights_from", "use_t5", "height", "width"])
def test_keys_of_another_model_are_rejected(key):
    value = configuration.complete({}, SCHEMA)[key]
    with pytest.raises(ValueError, match=f"{key}: the model embedded does not read it") as caught:
        configuration.load({key: value})
    assert "\n" not in str(caught.value)
    assert configuration.load({key: value, "model": "sd3-medium"})[0][key] == value


def test_outliers_are_those_of_the_hard_twin_alone():
    with pytest.raises(
        ValueError, match=r"hardness: the model embedded does not read it; .* set model to embedded-hard"
    ):
        configuration.load({"hardness": ["norm"]})
    assert configuration.load({"hardness": [], "model": "embedded-hard"})[0]["hardness"] == []
    with pytest.raises(ValueError, match=r"hardness\.0: 'norms' is not one of"):
        configuration.load({"hardness": ["norms"], "model": "embedded-hard"})


@pytest.mark.parametrize(
    "url", ["s3://key:a-secret@bucket/run", "bucket/a-secret", "s3://", "s3:///a-secret", "s3://a b"]
)
def test_an_invalid_url_or_one_with_credentials_is_rejected_and_not_repeated(url):
    with pytest.raises(ValueError, match=r"trajectories_url: .* change it") as caught:
        configuration.complete({"trajectories_url": url}, configuration.load_schema())
    assert "a-secret" not in str(caught.value)
