"""The rules of the paper for most block tests: no search, step sizes by noise level, no distillation."""

from pathlib import Path

import yaml

_RULES = ("bits_per_weight", "weights", "activations", "distil")
PAPER = {key: yaml.safe_load(Path("config/paper.yaml").read_text(encoding="utf-8"))[key] for key in _RULES}
