"""The migration table has every original command and names only existing entries."""

import importlib
import re
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_original_command_has_a_row(name):
    assert re.search(rf"^\| `(\w+\.)?{name}\b", TEXT, re.MULTILINE)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"workflow_scripts\.([\w.]+\w)", TEXT))))
def test_every_command_exists_and_has_an_effect(module):
    assert callable(importlib.import_module(f"workflow_scripts.{module}").main)
