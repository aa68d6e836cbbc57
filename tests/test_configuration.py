"""The configuration: defaults from one schema, and one line for what cannot be meant."""

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from workflow_scripts import configuration

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


@pytest.mark.parametrize("path", [p for p in PRESETS if "schema" not in p.name], ids=lambda p: p.stem)
def test_presets_are_valid(path):
    full = configuration.complete(yaml.safe_load(path.read_text()), SCHEMA)
    assert len(configuration.read_prompts(Path(full["prompts"]))) > 0


def test_each_preset_but_the_default_writes_to_a_folder_of_its_own():
    folders = [yaml.safe_load(p.read_text()).get("results_dir") for p in PRESETS if "schema" not in p.name]
    assert len(set(folders)) == len(folders)


def test_the_default_prompts_are_twenty_different_ones():
    prompts = configuration.read_prompts(Path(SCHEMA["properties"]["prompts"]["default"]))
    assert len(prompts) == len(set(prompts)) == 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"steps": 25, "selected_steps": 26}, "selected_steps: 26 of 25"),
        ({"seed": -1}, "seed: -1"),
        ({"model": "sd9"}, "model: 'sd9'"),
        ({"trajectories": 2.5}, "trajectories: 2.5"),
        ({"trajectories": "many"}, "trajectories: 'many'"),
        ({"cfg_scale": 0}, "cfg_scale: 0"),
        ({"steps": None}, "steps: None"),
        ({"prompts": ""}, "prompts"),
        ({"overwrite": "maybe"}, "overwrite: 'maybe'"),
        ({"weights": [{"layers": "*", "bits": 7, "group_size": 64}]}, "weights"),
        ({"weights": [{"layers": "*", "bits": 4}]}, "weights"),
        ({"activations": [{"layers": "*", "bits": 8, "policy": "magic", "range": "absmax"}]}, "activations"),
        ({"activations": [{"layers": "*", "bits": 8, "policy": "lut", "range": "absmax", "x": 1}]}, "activations"),
        ({"step": 3}, "step: unknown key; did you mean steps?"),
        ({"cfg": 3}, "cfg: unknown key; did you mean cfg_scale?"),
    ],
)
def test_bad_values_are_refused_in_one_line_that_names_the_key(changes, words):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        configuration.complete(changes, SCHEMA)
    assert words in str(caught.value)


def test_equal_values_are_spelt_alike():
    full = configuration.complete({"cfg_scale": 3, "steps": 30.0, "results_dir": "out/"}, SCHEMA)
    assert [str(full[key]) for key in ("cfg_scale", "steps", "results_dir")] == ["3.0", "30", "out"]


@pytest.mark.parametrize(("word", "value"), [("true", True), ("false", False), (True, True)])
def test_true_and_false_may_come_from_a_command_line(word, value):
    assert configuration.complete({"overwrite": word}, SCHEMA)["overwrite"] is value
