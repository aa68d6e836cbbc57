"""Any configuration is completed, or rejected in one line that names the key; none runs code or leaves its folder."""

import datetime
import os
import random
import tracemalloc
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taqmlx.planning import config_limits, configuration, plan
from taqmlx.store.errors import UserError
from tools.faults.hostile import limit_time
from tools.faults.mutations import NASTY, mutate_part
from workflow_scripts.tools import budget

SCHEMA = configuration.load_schema()
KEYS = list(SCHEMA["properties"])
PRESETS = [
    yaml.safe_load(path.read_text()) for path in sorted(Path("config").glob("*.yaml")) if "schema" not in path.name
]
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
)
QUIETLY = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.binary(max_size=8)
)
values = st.one_of(
    st.sampled_from(NASTY),
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=3), max_leaves=8
    ),
)


def complete(config):
    """The completed configuration, or None if it is rejected as it should be: what `configuration.load` does."""
    try:
        with limit_time(60):
            full = configuration.complete(config, SCHEMA)
            configuration.reject_unread(config, full["model"])
            configuration.read_prompts(Path(full["prompts"]))
            plan.encode_values("optimise_block", full)
            return full
    except ValueError as error:
        refused = error
    assert type(refused) is ValueError, refused
    assert len(str(refused).splitlines()) == 1
    assert len(str(refused)) < 1200
    return None


@settings(max_examples=300, **QUIETLY)
@given(key=st.sampled_from([*KEYS, "unheard_of"]), value=values)
def test_any_value_of_any_key_is_accepted_or_rejected_in_one_line(key, value):
    if (found := complete({key: value})) is not None:
        assert configuration.complete(found, SCHEMA) == found


@settings(max_examples=150, **QUIETLY)
@given(preset=st.sampled_from(PRESETS), rng=st.randoms(use_true_random=False))
def test_a_changed_preset_is_accepted_or_rejected_in_one_line(preset, rng: random.Random):
    rules = {
        key: configuration.complete(preset, SCHEMA)[key] for key in ("weights", "activations", "multitier_thresholds")
    }
    complete(mutate_part(rng, preset | rules))


@pytest.mark.parametrize(
    "config", [None, [], "x", 3, {1: 2}, {None: 1}, {"model": {1: 2}}, {datetime.date(2020, 1, 1): 1}]
)
def test_a_file_that_is_not_a_mapping_of_words_is_rejected(config):
    assert complete(config) is None


@pytest.mark.parametrize("key", ["weights", "model", "prompts", "adaround_beta"])
def test_aliases_for_billions_of_values_are_rejected_before_expansion(key):
    bomb = yaml.safe_load(BOMB)["a9"]
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"^{key}: more than \d+ values"):
        configuration.complete({key: bomb}, SCHEMA)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_an_alias_of_itself_is_rejected():
    circle = yaml.safe_load("weights: &a [*a]")
    with pytest.raises(ValueError, match=r"^weights: nested more than"):
        configuration.complete(circle, SCHEMA)


@pytest.mark.parametrize("steps", [10**5, 10**12, 2**62])
def test_no_number_makes_planning_take_memory(steps):
    numbers = {key: steps for key, described in SCHEMA["properties"].items() if described.get("type") == "integer"}
    tracemalloc.start()
    for key in numbers:
        complete({key: steps})
        complete({"steps": steps, "selected_steps": steps, "capture_points": steps, key: steps})
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "results",
    [
        *(
            "",
            ".",
            "./",
            "/",
            "..",
            "../x",
            "results/../..",
            "a/../../b",
            "~",
            "~/x",
            "-rf",
            "--config",
            "a\nb",
            "a\0b",
        ),
        *("a{shard}", "a}", "<results>", "a>b", "\ud800", "a\tb", "x" * 20_000, " \x7f"),
        *(
            "config",
            "docs/x",
            "workflow_scripts",
            "rules/new",
            "tests/",
            "tools",
            "profiles",
            ".git",
            ".snakemake/x",
            ".venv",
            "report",
        ),
        str(config_limits.ROOT),
        str(config_limits.ROOT.parent),
        str(config_limits.ROOT / "taqmlx" / "store"),
    ],
)
def test_results_are_written_to_their_folder_only(results):
    with pytest.raises(ValueError, match=r"^results_dir: [^\n]+$"):
        configuration.complete({"results_dir": results}, SCHEMA)


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_results_are_not_written_into_another_project(tmp_path, monkeypatch, snakefile):
    monkeypatch.chdir(tmp_path)
    configuration.complete({"results_dir": "rules/new"}, SCHEMA)
    (tmp_path / snakefile).parent.mkdir(exist_ok=True)
    (tmp_path / snakefile).touch()
    with pytest.raises(ValueError, match="among the project's own files"):
        configuration.complete({"results_dir": "rules/new"}, SCHEMA)


@pytest.mark.parametrize(
    "results", ["results", "results/a b", "out", "a'b\"$(c);&", "[1]*?", "été", "/mnt/big/results", "a..b"]
)
def test_other_folder_names_are_accepted(results):
    assert configuration.complete({"results_dir": results}, SCHEMA)["results_dir"] == results


@pytest.mark.parametrize("key", [key for key in config_limits.PATHS if key != "results_dir"])
@pytest.mark.parametrize("path", ["-x", "~/x", "a{b}.txt", "<results>/x", "a\nb"])
def test_paths_that_mean_something_else_to_snakemake_or_a_shell_are_rejected(key, path):
    with pytest.raises(ValueError, match=rf"^{key}: [^\n]+$"):
        configuration.complete({key: path}, SCHEMA)


def test_more_rules_than_fit_on_a_command_line_are_rejected():
    rules = [{"layers": f"mm_{index:05d}.*", "bits": 4} for index in range(2000)]
    with pytest.raises(ValueError, match=r"^the configuration has \d+ bytes"):
        configuration.complete({"weights": rules}, SCHEMA)


TAGS = [
    "!!python/object/apply:os.system ['touch {place}']",
    "!!python/object/new:os.system ['touch {place}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!binary '!'",
    "!unheard x",
    "[" * 1500,
    "{? [a, b] : c}",
    "*nothing",
    "1" * 5000,
    "\0",
    "2020-13-45",
]


@pytest.mark.parametrize("text", TAGS)
def test_yaml_runs_no_code_and_is_rejected_in_one_line(text, tmp_path):
    text = text.replace("{place}", str(tmp_path / "pwned"))
    file = tmp_path / "x.yaml"
    file.write_text(f"prompts: {text}\n")
    for named in ({"configfile": [file], "config": []}, {"configfile": [], "config": [f"prompts={text}"]}):
        with pytest.raises(UserError, match=r"^[^\n]+$"):
            budget.read_configuration(Namespace(**named))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_configuration_in_a_special_file_is_rejected_at_once(make, tmp_path):
    make(tmp_path / "x.yaml")
    with limit_time(60), pytest.raises(UserError, match="--configfile: "):
        budget.read_configuration(Namespace(configfile=[tmp_path / "x.yaml"], config=[]))
