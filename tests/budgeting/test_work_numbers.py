"""The work of the presets in the documents is that of the budget."""

from pathlib import Path

import pytest

from taqmlx.budgeting.devices import DEVICES, estimate_seconds
from taqmlx.budgeting.shapes import read_shapes
from taqmlx.budgeting.stages import find_peak, list_stages
from taqmlx.budgeting.work import estimate_rates
from taqmlx.store.files import read_plain_json
from workflow_scripts.tools.budget import load_files

PRESETS = ("sd3-medium", "sd3-medium-evening")


def describe_preset(name):
    """Forwards, PFLOP, and the estimated hours by device, of a preset of `config/`."""
    config, prompts = load_files([Path(f"config/{name}.yaml")])
    shapes = read_shapes(config)._replace(itemsize=2)
    stages = list_stages(config, prompts, shapes, estimate_rates(config, shapes.sizes))
    worked = [stage for stage in stages if stage.flop]
    return {
        "disk_gb": round(find_peak(stages) / 1e9, 2),
        "memory_gb": round(max(stage.memory for stage in stages) / 1e9, 2),
        "forwards": {stage.name: round(stage.forwards) for stage in worked},
        "pflop": {stage.name: round(stage.flop / 1e15, 2) for stage in worked}
        | {"total": round(sum(stage.flop for stage in worked) / 1e15, 1)},
        "hours": {
            name: round(sum(estimate_seconds(stage, device) for stage in stages) / 3600, 2)
            for name, device in DEVICES.items()
        },
    }


@pytest.mark.parametrize("name", PRESETS)
def test_the_work_of_a_preset_in_the_documents_is_that_of_the_budget(name):
    assert read_plain_json(Path("docs/numbers.json"))["work"]["presets"][name] == describe_preset(name)
