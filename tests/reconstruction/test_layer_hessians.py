"""Hessians of layer inputs: 2 x^T x over all points, once per shared input."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.calibration_points import split_runs
from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.models import embedded
from taqmlx.planning.layers import list_linears
from taqmlx.reconstruction.layer_hessians import ENERGY, accumulate_hessians, measure_rank, observe_layers
from tests.mmdit.test_calibration_points import make_points
from tools.reference import FLUX, create_transformer

POINTS = np.arange(7)


@pytest.fixture(scope="module", params=["guided", "unguided"])
def study(request):
    """A model, all its layers, and points of it."""
    model = create_transformer(**FLUX) if request.param == "unguided" else embedded.load_transformer()
    layers = list_linears(model.config.depth_multimodal, model.config.depth_unified)
    return model, layers, make_points(model, conditions=1 if request.param == "unguided" else 2)


def record_slowly(model, points) -> dict[str, np.ndarray]:
    """By layer what it reads, float64 (tokens, in), from a forward of its own for each point."""
    exact, read = bind_linears(model), {}

    def record(name, x):
        read.setdefault(name, []).append(np.array(x.astype(mx.float32), np.float64).reshape(-1, x.shape[-1]))
        return exact(name, x)

    for point in POINTS:
        predict_velocity(model, record, *points.take(np.array([point])))
    return {name: np.concatenate(parts) for name, parts in read.items()}


def test_hessians_are_twice_the_second_moments_of_layer_inputs(study):
    model, layers, points = study
    found = accumulate_hessians(model, layers, (points.take(run) for run in split_runs(POINTS, 3)))
    read = record_slowly(model, points)
    assert found.keys() == {layer.input for layer in layers}
    for layer in layers:
        expected, hessian = 2 * read[layer.name].T @ read[layer.name], found[layer.input]
        assert hessian.dtype == np.float64
        np.testing.assert_allclose(hessian, expected, atol=1e-4 * np.abs(expected).max(), err_msg=layer.name)


def test_only_the_requested_layers_are_observed(study):
    model, layers, points = study
    few = [layer for layer in layers if layer.role in ("embedder", "qkv")][:8]
    found = observe_layers(model, few, points.take(POINTS[:2]))
    assert found.keys() == {layer.input for layer in few}


class TestEffectiveRank:
    """The directions that hold 99.9 % of an input's energy."""

    @staticmethod
    def build(energies, width=8):
        basis = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0]
        return basis @ np.diag(np.resize(np.array([*energies, *[0.0] * (width - len(energies))]), width)) @ basis.T

    @pytest.mark.parametrize(
        ("energies", "rank"),
        [([5.0], 1), ([1, 1, 1], 3), ([1] * 8, 8), ([1000, 0.5], 1), ([1000, 2], 2), ([500, 499, 0.5, 0.4], 2)],
    )
    def test_the_rank_counts_from_the_largest_eigenvalue(self, energies, rank):
        assert measure_rank(self.build(energies)) == rank

    def test_the_rank_is_the_smallest_number_that_holds_the_energy(self):
        x = np.random.default_rng(1).standard_normal((200, 30)) * np.geomspace(1, 1e-3, 30)
        values = sorted(np.linalg.eigvalsh(2 * x.T @ x), reverse=True)
        count = next(k for k in range(1, 31) if sum(values[:k]) >= ENERGY * sum(values))
        assert measure_rank(2 * x.T @ x) == count

    def test_adaln_inputs_lie_in_few_directions(self):
        """SiLU of timestep plus text: the issue measured 15 of 128 on the embedded model."""
        model = embedded.load_transformer()
        layers = [layer for layer in list_linears(5) if layer.role == "adaLN"]
        points = make_points(model)
        hessian = accumulate_hessians(model, layers, [points.take(POINTS)])["modulation"]
        assert measure_rank(hessian) <= 24
