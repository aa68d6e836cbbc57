"""The disk of every stage agrees with what a small workflow run writes."""

import subprocess

import pytest

from taqmlx.budgeting import work
from taqmlx.budgeting.shapes import read_shapes
from taqmlx.budgeting.stages import count_held, list_stages
from workflow_scripts.tools import budget


@pytest.mark.slow
@pytest.mark.whole
def test_every_stage_writes_within_ten_percent_of_its_budget(python, tmp_path):
    values = [f"results_dir={tmp_path / 'results'}", "trajectories=20", "steps=20", "selected_steps=10"]
    values += ["engine=rtn", "statistics_shards=2", "search_points=20", "search_probes=2", "distil_iterations=2"]
    command = [python, "-m", "snakemake", "--cores", "1", "quant_config", "--notemp", "--quiet", "all"]
    subprocess.run([*command, "--config", *values], check=True, capture_output=True, timeout=900)
    config, prompts = budget.read_configuration(budget.argparse.Namespace(configfile=[], config=values))
    shapes = read_shapes(config)
    written = {}
    for stage in list_stages(config, prompts, shapes, work.estimate_rates(config, shapes.sizes)):
        if not stage.places:  # its file is counted with those of the blocks
            continue
        held = sum(count_held(tmp_path / "results" / place) for place in stage.places)
        written[stage.name] = (stage.disk / held, held)
    total = sum(held for _, held in written.values())
    assert sum(ratio * held for ratio, held in written.values()) == pytest.approx(total, rel=0.1)
    wrong = {name: pair for name, pair in written.items() if abs(pair[0] - 1) > 0.1 and pair[1] > total / 100}
    assert not wrong
