"""The search keeps a fold that lowers the error of a block, and changes neither its function nor other layers."""

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from taqmlx.mmdit.folds import apply_fold
from taqmlx.planning.folds import list_folds, list_sites
from taqmlx.reconstruction.block_problem import run_rows, take_rows
from taqmlx.reconstruction.folding import refresh, replace_weights, search_fold
from tools.reference import copy_transformer

FC1 = "mm_01.image.mlp.fc1"


def test_a_kept_fold_lowers_the_error_and_keeps_the_outputs(captured):
    ((site, kind),) = list_folds(list_sites(5), [{"layers": FC1, "kind": "scale"}], "mm_01")
    model = copy_transformer(captured.model)
    outlier = np.where(np.arange(128) == 5, 1 / 32, 1).astype(np.float32)
    replace_weights(model, apply_fold(dict(tree_flatten(model.parameters())), site, kind, outlier, 2))
    before = dict(tree_flatten(model.parameters()))
    problem, rules = captured.pose()
    problem = refresh(model, problem, captured.modulation)
    fold, folded = search_fold(model, problem, captured.modulation, site, kind, rules, 0)
    exact, found = (
        run_rows(own, own.weights, lambda key, x: x, take_rows(own.rows, own.held_out)) for own in (problem, folded)
    )
    for stream, outputs in exact.items():
        assert mx.abs(found[stream] - outputs).max() <= 1e-5 * mx.abs(outputs).max()
    after = dict(tree_flatten(model.parameters()))
    changed = {name for name in before if not mx.array_equal(before[name], after[name])}
    assert fold is not None
    assert fold.errors[1] < fold.errors[0]
    layers = (*site.readers, *site.writers)
    assert changed <= {f"{layer.path}.{part}" for layer in layers for part in ("weight", "bias")}
    np.testing.assert_allclose(fold.after, fold.before / fold.vector, rtol=1e-4)


def test_a_centre_is_chosen_by_the_error_of_the_inputs_alone(captured):
    ((site, kind),) = list_folds(list_sites(5), [{"layers": FC1, "kind": "centre"}], "mm_01")
    model = copy_transformer(captured.model)
    offset = np.where(np.arange(128) % 9 == 4, 6, 0).astype(np.float32)
    replace_weights(model, apply_fold(dict(tree_flatten(model.parameters())), site, kind, -offset, 2))
    problem, rules = captured.pose()
    problem = refresh(model, problem, captured.modulation)
    fold, _ = search_fold(model, problem, captured.modulation, site, kind, rules, 0)
    assert fold is not None
    assert fold.errors[1] < 0.8 * fold.errors[0]
    assert np.corrcoef(fold.vector, offset)[0, 1] > 0.9
    unrounded = {name: rule | {"activation": {"bits": 16}} for name, rule in rules.items()}
    assert search_fold(model, problem, captured.modulation, site, kind, unrounded, 0)[0] is None
