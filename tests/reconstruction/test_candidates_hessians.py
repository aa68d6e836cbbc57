"""GPTQ Hessians are those of the layer inputs, at bounded cost."""

import math

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.reconstruction import candidates
from taqmlx.reconstruction.block_problem import run_rows, take_rows
from taqmlx.reconstruction.candidates import (
    HESSIAN_TOKENS,
    accumulate_hessians,
    choose_stride,
    round_by_hessian,
    round_to_nearest,
)
from taqmlx.reconstruction.input_quantizers import bind_to_rows
from tests.support.blocks import SETTINGS


@pytest.mark.parametrize("batch", [64, 7])
def test_hessians_are_those_of_quantized_inputs_over_the_training_rows(study, monkeypatch, batch):
    problem, _, _, quantizers = study
    read, rows = {}, take_rows(problem.rows, problem.training)
    bind = bind_to_rows(quantizers)(rows)

    def keep(key, x):
        read[key] = bind(key, x)
        return read[key]

    mx.eval(run_rows(problem, problem.weights, keep, rows))
    monkeypatch.setattr("taqmlx.reconstruction.block_problem.BATCH", batch)
    found = accumulate_hessians(problem, quantizers)
    assert found.keys() == set(problem.readers.values())
    for key, x in read.items():
        tokens = np.array(x).reshape(-1, x.shape[-1]).astype(np.float64)
        slow = 2 * tokens.T @ tokens
        np.testing.assert_allclose(found[key], slow, atol=1e-3 * np.abs(slow).max(), err_msg=key)


def test_of_many_tokens_a_share_is_sampled_at_every_position(study, monkeypatch):
    problem, _, _, quantizers = study
    whole = accumulate_hessians(problem, quantizers)
    monkeypatch.setattr(candidates, "HESSIAN_TOKENS", 200)
    found = accumulate_hessians(problem, quantizers)
    for key, hessian in whole.items():
        tokens = 44 * (16 if ".image." in key else 20)
        share = np.trace(found[key]) / np.trace(hessian)
        assert share == pytest.approx(1 / choose_stride(tokens, tokens // 44), rel=0.3)


@pytest.mark.parametrize("per_row", [1, 16, 20, 154, 589, 1024])
@pytest.mark.parametrize("rows", [1, 44, 448, 6400])
def test_the_stride_visits_every_position_of_a_row(rows, per_row):
    stride = choose_stride(rows * per_row, per_row)
    assert math.gcd(stride, per_row) == 1
    assert stride >= rows * per_row // HESSIAN_TOKENS
    if stride > 1:
        read = len(range(0, rows * per_row, stride))
        assert HESSIAN_TOKENS / 3 < read < 2 * HESSIAN_TOKENS
        assert len({place % per_row for place in range(0, stride * per_row, stride)}) == per_row


def test_rounding_uses_the_hessian_of_the_layer_input(study):
    """Queries, keys and values share one; a damping that drowns it rounds to nearest."""
    problem, _, grids, quantizers = study
    found = round_by_hessian(problem, grids, quantizers, 1e9)
    nearest = round_to_nearest(problem, grids, quantizers)
    share = np.mean([np.mean(found.codes[name] == nearest.codes[name]) for name in grids])
    assert share > 0.999
    found = round_by_hessian(problem, grids, quantizers, SETTINGS.gptq_damping)
    moved = {name: np.mean(found.codes[name] != nearest.codes[name]) for name in grids}
    assert min(moved.values()) > 0.05
