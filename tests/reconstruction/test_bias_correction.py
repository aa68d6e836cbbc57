"""The mean output error of a quantized layer is folded into its bias."""

from dataclasses import replace

import mlx.core as mx
import numpy as np

from taqmlx.planning.stage_groups import Rtn
from taqmlx.reconstruction.bias_correction import correct_biases
from taqmlx.reconstruction.block_problem import keep_inputs, run_rows, take_rows
from taqmlx.reconstruction.candidates import dequantize_codes, list_candidates, measure_candidate, round_to_nearest
from taqmlx.reconstruction.input_quantizers import bind_to_rows, leave_unrounded
from tests.support.blocks import ignore_progress


def observe(problem, bind):
    """Inputs (tokens, in) of each reader on the training rows, with full-precision weights."""
    read, rows = {}, take_rows(problem.rows, problem.training)
    mx.eval(run_rows(problem, problem.weights, keep_inputs(bind(rows), read), rows))
    return {key: x.reshape(-1, x.shape[-1]) for key, x in read.items()}


def test_the_mean_error_of_every_corrected_layer_is_zero(study):
    problem, _, grids, quantizers = study
    weights = dequantize_codes(grids, round_to_nearest(problem, grids, quantizers))
    found = correct_biases(problem, weights, quantizers)
    exact, rounded = (
        observe(problem, bind) for bind in (lambda rows: leave_unrounded(quantizers), bind_to_rows(quantizers))
    )
    for name, bias in found.items():
        key = problem.readers[name]
        wanted = exact[key] @ problem.weights[name].T + problem.biases[name]
        error = np.array((rounded[key] @ weights[name].T + bias - wanted).mean(axis=0))
        before = np.array((rounded[key] @ weights[name].T + problem.biases[name] - wanted).mean(axis=0))
        assert np.abs(error).max() < 1e-4
        assert np.abs(before).max() > 1e-3


def test_a_layer_without_a_bias_stays_without_one(study):
    problem, _, _, quantizers = study
    found = correct_biases(problem, problem.weights, quantizers)
    without = {name for name in problem.weights if name.endswith("k_proj")}
    assert len(without) == 2
    assert found.keys() == problem.weights.keys() - without


def test_candidates_are_corrected_only_if_it_is_configured(study):
    problem, _, grids, quantizers = study
    settings = Rtn()
    plain = list_candidates(problem, grids, quantizers, settings, ignore_progress())[-1]
    other = list_candidates(problem, grids, quantizers, replace(settings, bias_correction=True), ignore_progress())[-1]
    assert plain.biases == {}
    assert all((other.codes[name] == codes).all() for name, codes in plain.codes.items())
    errors = [measure_candidate(problem, grids, found)["quantized_inputs"] for found in (plain, other)]
    assert errors[0] != errors[1]
