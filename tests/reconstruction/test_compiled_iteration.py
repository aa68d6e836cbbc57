"""A compiled iteration, as on a GPU, gives the state of one that is not compiled."""

import shutil
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.elementwise import KERNELS
from taqmlx.reconstruction import reconstruction
from taqmlx.reconstruction.flat_weights import start_at_weights
from taqmlx.reconstruction.reconstruction import compile_on_gpu
from tests.support.blocks import SETTINGS, as_arrays, learn_quietly, set_up

# Both phases, random keys, and rows of two kinds.
CHANGES = {"reconstruction": "separate", "adaround_drop": 0.5, "adaround_iterations": 3}


@pytest.fixture
def mlx_functions(monkeypatch):
    """MLX's own norms, GELU and attention, as on a GPU."""
    monkeypatch.setitem(KERNELS, mx.cpu, KERNELS[mx.gpu])


def test_nothing_is_compiled_on_a_cpu():
    assert compile_on_gpu(as_arrays) is as_arrays


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles with g++ on a CPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("block", ["mm_01", "mm_04"])
def test_the_state_is_that_of_the_iteration_as_it_is(captured, mlx_functions, monkeypatch, block, dtype):
    """The last block has no text target."""
    problem, rules = captured.pose(block)
    grids, quantizers, _ = set_up(problem, rules)
    flat, settings = start_at_weights(problem.weights, grids), replace(SETTINGS, learning_dtype=dtype, **CHANGES)
    plain = learn_quietly(problem, flat, quantizers, settings)
    monkeypatch.setattr(reconstruction, "compile_on_gpu", mx.compile)
    compiled = learn_quietly(problem, flat, quantizers, settings)
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-5)
    for name, value in as_arrays(plain).items():
        # Adam turns a gradient that is almost zero into a whole step, of either sign.
        assert np.isclose(as_arrays(compiled)[name], value, atol=1e-5).mean() > 0.999, name
