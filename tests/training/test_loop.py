"""Interrupted training resumes to the same result."""

import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from taqmlx.training.loop import learning_rate_share, optimise
from taqmlx.training.muon import orthogonalise
from taqmlx.training.recipe import Stage

STAGE = Stage(steps=12, batch=4, learning_rate=1e-2, seed=1, warmup=2, checkpoint_every=5)


class Network(nn.Module):
    """One of each kind of parameter: a table, a kernel, a matrix, biases and running statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(4, 3)
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 1)


def measure(model: Network, generator: torch.Generator) -> torch.Tensor:
    tokens = torch.randint(4, (STAGE.batch, 5, 5), generator=generator)
    features = model.norm(model.convolution(model.table(tokens).permute(0, 3, 1, 2)))
    target = tokens.float().mean((1, 2))
    return (model.linear(features.mean((2, 3))).squeeze(1) - target).square().mean()


def train(path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    model, calls = Network(), 0

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if stop_at is not None and calls > stop_at:
            raise KeyboardInterrupt
        return measure(model, generator)

    optimise(model, loss_of, STAGE, path, "test")
    return load_file(path)


def test_a_stopped_run_ends_like_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken.safetensors", stop_at=8)
    resumed = train(tmp_path / "broken.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    whole = train(tmp_path / "run.safetensors")
    (tmp_path / "run.safetensors").unlink()
    again = train(tmp_path / "run.safetensors", stop_at=0)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_learning_rate_rises_and_falls_to_zero():
    stage = dataclasses.replace(STAGE, steps=102, warmup=2)
    shares = [learning_rate_share(stage, step) for step in range(stage.steps + 1)]
    assert shares[0] == 0.5
    assert shares[1] == shares[2] == 1.0
    assert math.isclose(shares[52], 0.5)
    assert math.isclose(shares[-1], 0.0, abs_tol=1e-12)


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_an_orthogonalised_matrix_keeps_its_directions_and_loses_its_scales(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ orthogonalise(matrix) @ right.T
    scales = inner.diagonal()
    assert scales.min() > 0.5
    assert scales.max() < 1.4
    assert (inner - torch.diag(scales)).abs().max() < 0.15
