"""The paper's rules, which most tests of blocks quantize by: no search, inputs by noise level, nothing distilled."""

from pathlib import Path

import yaml

_RULES = ("bits_per_weight", "weights", "activations", "distil")
PAPER = {key: yaml.safe_load(Path("config/paper.yaml").read_text(encoding="utf-8"))[key] for key in _RULES}
