"""Every rung of the ladder and every row of the ablation rounds a block by its own configuration."""

import pytest

from taqmlx.planning.ladder import FULL_PRECISION
from taqmlx.planning.variants import RUNGS, change
from taqmlx.store.files import read_json
from tests.optimise_block.conftest import TRIED, quantize, read_report

EXACT = 1e-6  # of a forward with the order of its sums changed
BLOCK = "mm_04"  # the smallest: no text stream leaves it


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_rounds_a_block_by_its_rules(folder, rung):
    """Without folds, which another command searches, on inputs of full precision."""
    out = quantize(
        folder, BLOCK, **change({"adaround_iterations": 2}, rung) | {"folds": [], "block_inputs": "full_precision"}
    )
    report, layers = read_report(out), read_json(folder / "params.json")["layers"]
    assert sorted(report["errors"]) == sorted(TRIED[RUNGS[rung][1]["engine"]])
    error = min(report["errors"][report["chosen"]]["quantized_inputs"].values())
    rounded = {layer["weight"]["bits"] < 16 or layer["activation"]["bits"] < 16 for layer in layers.values()}
    assert (error > EXACT) == (True in rounded) == (rung != FULL_PRECISION)
    assert error < 0.5
