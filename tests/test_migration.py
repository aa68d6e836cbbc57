"""The migration table names only commands, targets and configuration keys that exist."""

import importlib
import re
from pathlib import Path

import pytest

from tests.documents import RULES, SCHEMA

TEXT = Path("docs/migration.md").read_text(encoding="utf-8")
ORIGINAL = [
    "generate_calibration_data",
    "sample_cali_data",
    "collect_layer_activations",
    "analyze_activations",
    "analyze_activations_multitier",
    "cache_adaround_data",
    "adaround_optimize",
    "load_adaround_model",
    "visualize_activations",
    "verify_calibration",
    "rebuild_manifest",
    "decode_latents",
]
COMMANDS = re.findall(r"`snakemake ([^`]+)`", TEXT)


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_original_command_has_a_row(name):
    assert re.search(rf"^\| `(\w+\.)?{name}\b", TEXT, re.MULTILINE)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"workflow_scripts\.(\w+)", TEXT))))
def test_every_command_is_there_and_does_something(module):
    assert callable(importlib.import_module(f"workflow_scripts.{module}").main)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_target_is_a_rule_and_every_setting_a_key(command):
    words, _, settings = command.partition(" --config ")
    targets = [word for word in words.partition(" --")[0].split() if not word.startswith(("-", "R/"))]
    assert set(targets) <= RULES
    assert {setting.partition("=")[0] for setting in settings.split()} <= set(SCHEMA["properties"])
