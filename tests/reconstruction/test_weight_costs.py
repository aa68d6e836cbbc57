"""Estimated rounding costs agree with forwards with each layer replaced."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_weights, predict_velocity
from taqmlx.numerics.gptq import round_with_gptq
from taqmlx.numerics.weight_grid import choose_grid, dequantize
from taqmlx.planning.bit_choices import CHANGE_BYTES, list_choices
from taqmlx.planning.layers import list_linears
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.reconstruction.layer_hessians import accumulate_hessians
from taqmlx.reconstruction.stages import BY_STAGE, WHOLE
from taqmlx.reconstruction.weight_costs import Batches, estimate_costs, group_layers, round_choices
from tests.mmdit.test_calibration_points import make_points
from tools.reference import FLUX, create_transformer

RULE = {"bits": 4, "group_size": 64, "symmetric": False, "range": "absmax"}
GUIDANCE, DAMPING = 3.0, 0.01
NAMES = ("mm_00.image.attn.q_proj", "mm_00.text.mlp.fc2", "mm_01.image.adaLN_modulation", "final_layer.linear")
UNGUIDED_NAMES = ("context_embedder", "mm_01.text.attn.v_proj", "uni_00.unified.mlp.fc1")
POINTS = np.arange(4)
TOGETHER = Batches(12, 4, WHOLE)


class Study:
    """A model and points of it, a few of its layers, and the changes that rounding makes of those."""

    def __init__(self, model, names, conditions):
        self.model, self.points = model, make_points(model, conditions=conditions)
        self.all_layers = list_linears(model.config.depth_multimodal, model.config.depth_unified)
        self.layers = [layer for layer in self.all_layers if layer.name in names]
        self.weights, self.biases = read_weights(model, self.all_layers)
        self.hessians = accumulate_hessians(model, self.layers, [self.points.take(np.arange(12))])
        self.changes = {
            layer.name: round_choices(self.weights[layer.name], RULE, self.hessians[layer.input], DAMPING)
            for layer in self.layers
        }

    def estimate(self, probes, changes=None, seed=0, batches=TOGETHER):
        return estimate_costs(self.model, self.points, probes, changes or self.changes, GUIDANCE, seed, batches)

    def guide(self, name=None, change=0.0):
        """The guided velocities (points, h, w, c) with the weight of one layer changed."""
        own = {} if name is None else {name: self.weights[name] + mx.array(np.float32(change))}
        linear = bind_weights(self.weights | own, self.biases)
        velocity = np.array(predict_velocity(self.model, linear, *self.points.take(POINTS)), np.float64)
        positive, negative = velocity[: len(POINTS)], velocity[-len(POINTS) :]
        return negative + GUIDANCE * (positive - negative)


@pytest.fixture(scope="module")
def guided():
    return Study(create_transformer(depth_multimodal=2), NAMES, 2)


@pytest.fixture(scope="module")
def unguided():
    return Study(create_transformer(**FLUX), UNGUIDED_NAMES, 1)


class TestChoices:
    def test_every_choice_is_rounded_by_gptq_on_its_own_grid(self, guided):
        for layer in guided.layers:
            weight, found = np.array(guided.weights[layer.name]), guided.changes[layer.name]
            assert list(found) == list_choices(weight.shape[1])
            for choice in list(found)[::5]:
                grid = choose_grid(weight, RULE | choice._asdict())
                codes = round_with_gptq(weight, grid, guided.hessians[layer.input], DAMPING)
                expected = (dequantize(codes, grid) - weight).astype(np.float16)
                np.testing.assert_array_equal(found[choice], expected)

    def test_more_bits_have_smaller_costs(self, guided):
        for changes in guided.changes.values():
            powers = [
                np.square(changes[choice].astype(np.float64)).sum() for choice in changes if choice.group_size == 64
            ]
            assert powers == sorted(powers, reverse=True)


@pytest.fixture(params=["guided", "unguided"])
def study(request):
    return request.getfixturevalue(request.param)


def test_one_probe_is_the_squared_derivative_of_the_signed_velocity(study):
    """(r . dv)^2 over |v|^2, dv by central differences; the same signs r for all layers and choices."""
    found = study.estimate([POINTS], seed=3)
    signs = np.random.default_rng(3).choice([-1.0, 1.0], (len(POINTS), *study.points.xs.shape[1:]))
    power = np.square(study.guide()).sum()
    for name, choices in found.items():
        for choice in list(choices)[::5]:
            step = 1e-2 / np.abs(study.changes[name][choice]).max() * np.abs(np.array(study.weights[name])).max()
            moved = [study.guide(name, sign * step * study.changes[name][choice]) for sign in (1, -1)]
            slope = (signs * (moved[0] - moved[1])).sum() / (2 * step)
            size = np.sqrt(np.square(moved[0] - moved[1]).sum()) / (2 * step)
            assert np.sqrt(choices[choice] * power) == pytest.approx(abs(slope), rel=0.02, abs=0.02 * size)


@pytest.mark.slow
def test_many_probes_give_the_error_of_the_velocity_with_the_layer_replaced(guided):
    """A probe's square has a relative deviation of sqrt(2) about its mean: four deviations for a single choice, less
    for the median of all. Where rounding is coarse the velocity is no longer linear in the change."""
    probes = 100
    found, exact = guided.estimate([POINTS] * probes), guided.guide()
    ratios = []
    for name, choices in found.items():
        for choice, cost in choices.items():
            error = np.square(guided.guide(name, guided.changes[name][choice]) - exact).sum()
            ratios.append(cost / (error / np.square(exact).sum()))
            if choice.bits >= 4:
                assert ratios[-1] == pytest.approx(1, abs=4 * np.sqrt(2 / probes)), (name, choice)
    assert np.median(ratios) == pytest.approx(1, abs=0.25)


def test_layers_measured_apart_cost_the_same_as_together(guided):
    probes = [POINTS[:2], POINTS[2:]]
    together = guided.estimate(probes)
    for name, changes in guided.changes.items():
        apart = guided.estimate(probes, {name: changes})
        assert apart[name] == pytest.approx(together[name], rel=1e-4)


@pytest.mark.parametrize("together", [1, 3, 4])
def test_points_apart_and_blocks_computed_again_cost_the_same(study, together):
    """As a large model needs it."""
    found = study.estimate([POINTS, POINTS[:2]], batches=Batches(12, together, BY_STAGE))
    for name, expected in study.estimate([POINTS, POINTS[:2]]).items():
        assert found[name] == pytest.approx(expected, rel=1e-3)


def test_groups_hold_all_layers_in_order_within_their_size(guided):
    own = [CHANGE_BYTES * guided.weights[layer.name].size * 12 for layer in guided.layers]
    for limit, count in ((1, 4), (max(own), None), (sum(own), 1)):
        groups = list(group_layers(guided.layers, guided.weights, limit))
        assert [layer for group in groups for layer in group] == guided.layers
        for group in groups:
            assert len(group) == 1 or sum(own[guided.layers.index(layer)] for layer in group) <= limit
        if count:
            assert len(groups) == count


def test_without_layers_there_is_no_group(guided):
    assert list(group_layers([], guided.weights, 1)) == []
