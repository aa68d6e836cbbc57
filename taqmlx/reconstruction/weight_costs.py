"""Cost of quantizing a weight, as guided velocity error, for every bit width and group size, from a few gradients.

The squared velocity error of a small change dW of one weight is to first order E_r <grad_W (r . v), dW>^2, with random
signs r: the Gauss-Newton form, estimated by probes (Hutchinson 1990; as a Fisher in SqueezeLLM, Kim et al. 2023,
arXiv:2306.07629). A probe is one backward pass over some points, each with its own signs; all choices of all layers
share it. On the embedded model the sum over layers is within 0.1 dB of that of separate forwards with each choice.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Linear
from taqmlx.mmdit.calibration_points import CalibrationPoints, guide_conditions, split_runs
from taqmlx.mmdit.footprint import choose_batch, choose_learned_batch
from taqmlx.mmdit.forward import bind_linears, bind_weights, resolve_bias
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.numerics.gptq import round_with_gptq
from taqmlx.numerics.weight_grid import choose_grid, dequantize
from taqmlx.planning.bit_choices import CHANGE_BYTES, PROBE_POINTS, Choice, list_choices
from taqmlx.planning.layer_rules import WeightRule
from taqmlx.planning.layers import Layer
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.reconstruction.stages import (
    LOSS,
    Activations,
    BindLearned,
    Stage,
    Strategy,
    add_learned,
    choose_strategy,
    list_forward,
)
from taqmlx.reconstruction.student import Learned

BATCH = 32  # largest number of points per forward
WEIGHTS = "weights"  # kind of the parameters that gradients are by


def group_layers(layers: Sequence[Layer], weights: Mapping[str, mx.array], limit: int) -> Iterator[list[Layer]]:
    """`layers` in groups whose changes fit in `limit` bytes, with at least one layer each."""
    group: list[Layer] = []
    size = 0
    for layer in layers:
        own = weights[layer.name].size * len(list_choices(weights[layer.name].shape[1])) * CHANGE_BYTES
        if group and size + own > limit:
            yield group
            group, size = [], 0
        group.append(layer)
        size += own
    if group:
        yield group


def round_choices(weight: mx.array, rule: WeightRule, hessian: np.ndarray, damping: float) -> dict[Choice, np.ndarray]:
    """GPTQ error float16 (out, in) of a weight (out, in), by choice.

    Raises ValueError as `choose_grid` and `round_with_gptq`.
    """
    exact, changes = np.array(weight), {}
    for choice in list_choices(exact.shape[1]):
        own: WeightRule = {**rule, "bits": choice.bits, "group_size": choice.group_size}
        grid = choose_grid(weight, own, np.diag(hessian))
        rounded = dequantize(round_with_gptq(exact, grid, hessian, damping), grid)
        changes[choice] = (rounded - exact).astype(np.float16)
    return changes


class Batches(NamedTuple):
    """Points that go together, at most: `observed` for Hessians, `differentiated` for gradients by `strategy`."""

    observed: int
    differentiated: int
    strategy: Strategy


def choose_batches(transformer: Transformer, latent_shape: Sequence[int], cs_shape: Sequence[int]) -> Batches:
    """Batches of latents (h, w, c), each under the conditions of a prompt in cs (n, C, T, D)."""
    sizes = transformer, latent_shape, cs_shape
    strategy = choose_strategy(transformer, latent_shape, cs_shape[2], PROBE_POINTS * cs_shape[1])
    return Batches(choose_batch(*sizes, BATCH), choose_learned_batch(*sizes, PROBE_POINTS), strategy)


def estimate_costs(
    model: Transformer,
    points: CalibrationPoints,
    probes: Sequence[np.ndarray],
    changes: Mapping[str, Mapping[Choice, np.ndarray]],
    cfg_scale: float,
    seed: int,
    batches: Batches,
) -> dict[str, dict[Choice, float]]:
    """Relative squared error of the guided velocity for each of `changes` alone, by layer and choice.

    probes: indices of each probe's points.
    """
    own = {WEIGHTS: read_weights(model, [layer for layer in list_layers(model) if layer.name in changes])[0]}
    sums = {name: dict.fromkeys(choices, 0.0) for name, choices in changes.items()}
    power, rng = 0.0, np.random.default_rng(seed)
    for indices in probes:
        signs = rng.choice([-1.0, 1.0], (len(indices), *points.xs.shape[1:])).astype(np.float32)
        energy, gradients = differentiate_probe(model, points, indices, signs, own, cfg_scale, batches)
        power += energy
        for name, choices in changes.items():
            gradient = np.array(gradients[name]).ravel()
            for choice, change in choices.items():
                sums[name][choice] += float(gradient @ change.ravel().astype(np.float32)) ** 2
    return {name: {choice: value / power for choice, value in by_choice.items()} for name, by_choice in sums.items()}


def differentiate_probe(
    model: Transformer,
    points: CalibrationPoints,
    indices: np.ndarray,
    signs: np.ndarray,
    own: Learned,
    cfg_scale: float,
    batches: Batches,
) -> tuple[float, dict[str, mx.array]]:
    """Square of the guided velocity at the points `indices` (b,), and the gradients of its product with `signs`
    (b, h, w, c) by the weights (out, in) in `own`.

    Both are sums over points, so that a few points together are enough.
    """
    energy = 0.0
    total: Learned = {WEIGHTS: {}}
    for run in split_runs(np.arange(len(indices)), batches.differentiated):
        batch = points.take(indices[run])
        stages = list_probe(model, batch, mx.array(signs[run]), cfg_scale)
        last, found = batches.strategy.differentiate(stages, own, {}, {"latents": batch.latents})
        add_learned(total, found)
        mx.eval(last, total)
        energy += float(last["energy"])
    return energy, total[WEIGHTS]


def list_probe(model: Transformer, batch: Batch, signs: mx.array, cfg_scale: float) -> list[Stage]:
    """Stages from latents to the product `loss` of `signs` (b, h, w, c) and the guided velocity, and its `energy`."""
    exact = bind_linears(model)
    biases = {layer.name: resolve_bias(model, layer) for layer in list_layers(model)}

    def bind(names: frozenset[str]) -> BindLearned:
        return lambda own: replace_weights(exact, own[WEIGHTS], biases)

    def project(own: Learned, before: Activations) -> Activations:
        guided = guide_conditions(before["velocity"], cfg_scale)
        return {LOSS: (guided * signs).sum(), "energy": mx.square(guided).sum()}

    forward = list_forward(model, bind, batch, len(batch.rows) // len(signs))
    return [*forward, Stage(frozenset(), project)]


def replace_weights(exact: Linear, weights: Mapping[str, mx.array], biases: Mapping[str, mx.array | None]) -> Linear:
    """`exact` with other weights (out, in) for some layers."""
    own = bind_weights(weights, biases)
    return lambda name, x: (own if name in weights else exact)(name, x)
