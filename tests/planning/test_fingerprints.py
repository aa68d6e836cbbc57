"""The parameters of every stage under the presets are unchanged, so that earlier results stay valid.

A fingerprint changes with a stage's version, its keys, and their values. `fingerprints.json` has those of now; after a
change that is meant, `python -m tests.planning.test_fingerprints` writes it again.
"""

from pathlib import Path

import pytest
import yaml

from taqmlx.planning import block_plan, configuration, plan, prompts
from taqmlx.store.files import read_plain_json, write_plain_json

KNOWN = Path("tests/planning/fingerprints.json")
PRESETS = ("config.yaml", "quick.yaml", "paper.yaml", "uniform.yaml", "hard.yaml", "hard-quick.yaml")


def fingerprint_preset(name: str) -> dict[str, str]:
    """The fingerprint of each stage's parameters, and of each block's."""
    files = dict.fromkeys(["config.yaml", name])
    values: dict = {}
    for file in files:
        values |= yaml.safe_load(Path("config", file).read_text(encoding="utf-8"))
    config = configuration.complete(values, configuration.load_schema())
    texts = prompts.read_prompts(Path(config["prompts"]))
    found = {stage: plan.fingerprint(plan.select_parameters(stage, config, texts)) for stage in plan.STAGES}
    stage = plan.select_parameters("optimise_block", config, texts)
    blocks = plan.list_block_names(config["model"])
    return found | {block: plan.fingerprint(block_plan.select_block(stage, block)) for block in blocks}


@pytest.mark.parametrize("name", PRESETS)
def test_the_parameters_of_every_stage_are_unchanged(name):
    assert fingerprint_preset(name) == read_plain_json(KNOWN)[name]


if __name__ == "__main__":
    write_plain_json(KNOWN, {name: fingerprint_preset(name) for name in PRESETS})
