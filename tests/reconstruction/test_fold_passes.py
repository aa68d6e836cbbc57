"""The passes over rows that the budget counts are those that the search of a fold makes."""

import numpy as np
import pytest
from mlx.utils import tree_flatten

from taqmlx.mmdit.folds import apply_fold
from taqmlx.planning.folds import CANDIDATES, count_passes, list_folds, list_sites
from taqmlx.reconstruction import block_problem
from taqmlx.reconstruction.folding import find_absmax, find_centres, propose, refresh, replace_weights, search_fold
from taqmlx.reconstruction.input_quantizers import observe_inputs
from tools.reference import copy_transformer

SITES = {"scale": "fc1", "centre": "fc1", "permutation": "fc2", "rotation": "attn.o_proj"}
UNDONE = {  # vectors of folds that a search undoes, which makes sure that it keeps one
    "scale": np.where(np.arange(128) == 5, 1 / 32, 1).astype(np.float32),
    "centre": np.where(np.arange(128) % 9 == 4, -6, 0).astype(np.float32),
}


@pytest.fixture
def posed(captured, request):
    """A model, the problem of its block, the rules, and the input of a fold of kind `request.param`."""
    kind = request.param
    (site, _) = list_folds(list_sites(5), [{"layers": f"mm_01.image.*{SITES[kind]}", "kind": kind}], "mm_01")[0]
    model = copy_transformer(captured.model)
    if kind in UNDONE:
        replace_weights(model, apply_fold(dict(tree_flatten(model.parameters())), site, kind, UNDONE[kind], 2))
    problem, rules = captured.pose()
    return model, refresh(model, problem, captured.modulation), rules, site, kind


@pytest.mark.parametrize("posed", CANDIDATES, indirect=True)
def test_as_many_candidates_are_tried_as_are_counted(posed):
    model, problem, _, site, kind = posed
    seen = observe_inputs(problem, problem.training)
    absmax, centres = find_absmax(problem, site, seen), find_centres(problem, site, seen)
    found = list(propose(problem, site, kind, absmax, centres, model.config.num_heads, 0))
    assert len(found) == CANDIDATES[kind]


@pytest.mark.parametrize("posed", CANDIDATES, indirect=True)
def test_a_search_makes_the_passes_that_are_counted_and_fewer_if_it_keeps_nothing(captured, posed, monkeypatch):
    model, problem, rules, site, kind = posed
    run, rows = block_problem.run_block, []

    def count(linear, block, image, *states):
        rows.append(len(image))
        return run(linear, block, image, *states)

    monkeypatch.setattr(block_problem, "run_block", count)
    fold, _ = search_fold(model, problem, captured.modulation, site, kind, rules, 0)
    training, held_out = len(problem.training), len(problem.held_out)
    total = training + held_out
    if fold:
        assert sum(rows) == pytest.approx(count_passes(kind, held_out / total) * total)
    else:
        assert kind not in UNDONE
        tried = (3 + 2 * CANDIDATES[kind]) * training
        assert sum(rows) in (tried, tried + 2 * training + 2 * held_out)
