"""Query and key norms, rotated positions and unified blocks agree with DiffusionKit's forward in every stage."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit import blocks
from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.planning.layers import list_linears
from taqmlx.reconstruction.block_assembly import list_own_linears
from taqmlx.reconstruction.block_problem import measure_errors, run_rows, take_rows
from taqmlx.reconstruction.candidates import choose_candidate, list_candidates, measure_candidate
from taqmlx.reconstruction.sensitivity import compare_streams, list_kept, measure_changes
from taqmlx.reconstruction.velocity import bind_tail, compare_velocities, spread_points
from taqmlx.reconstruction.weight_sensitivity import bind_changes, round_by_width
from tests.mmdit.test_forward import measure_error, predict_by_diffusionkit
from tests.support.blocks import LATENT_SHAPE, SETTINGS, capture, ignore_progress, quantize_nothing, set_up
from tools.reference import FLUX, NORMED, create_transformer

EVERY = np.arange(30)
BLOCKS = ["mm_01", "uni_01", "uni_02"]  # the last multimodal one, a unified one, and the very last


@pytest.fixture(scope="module", params=[NORMED, FLUX], ids=["normed", "flux"])
def model(request):
    return create_transformer(**request.param)


@pytest.fixture(scope="module")
def flux():
    return create_transformer(**FLUX)


@pytest.fixture(scope="module")
def captured(flux):
    """One row for each point, as FLUX has no negative prompt."""
    return capture(flux, count=1)


@pytest.fixture(scope="module", params=BLOCKS)
def posed(request, captured):
    return captured.pose(request.param)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(8, 8), (4, 6)])
def test_the_forward_equals_that_of_diffusionkit(model, conditions, latents, batch, shape):
    context, pooled = (values[:batch] for values in conditions)
    given = latents[:batch, : shape[0], : shape[1]]
    wanted = predict_by_diffusionkit(model, given, context, pooled, 613.0)
    timesteps, rows = mx.full(batch, 613.0), mx.arange(batch)
    found = predict_velocity(model, bind_linears(model), given, context, pooled, timesteps, rows)
    assert measure_error(found, wanted) <= 1e-5


def test_prompts_and_timesteps_mix_in_one_batch(model, conditions, latents):
    timesteps, order = [1000.0, 742.5, 103.7, 8.93], [2, 0, 3, 1, 2, 0]
    found = predict_velocity(model, bind_linears(model), latents, *conditions, mx.array(timesteps), mx.array(order))
    for index, row in enumerate(order):
        condition = (values[row : row + 1] for values in conditions)
        wanted = predict_by_diffusionkit(model, latents[index : index + 1], *condition, timesteps[row])
        assert measure_error(found[index : index + 1], wanted) <= 1e-5


@pytest.mark.parametrize("dropped", ["norms", "rotation"])
def test_norms_and_positions_affect_the_forward(flux, conditions, latents, dropped, monkeypatch):
    """What the parity above would miss if DiffusionKit's forward did nothing with them."""
    arguments = (latents[:4], *conditions, mx.full(4, 613.0), mx.arange(4))
    whole = predict_velocity(flux, bind_linears(flux), *arguments)
    empty = {"norms": ("read_norms", lambda model, stream: ()), "rotation": ("rotate", lambda x, rotation: x)}[dropped]
    monkeypatch.setattr(blocks, *empty)
    assert measure_error(predict_velocity(flux, bind_linears(flux), *arguments), whole) > 1e-3


def test_every_linear_is_called_once_through_the_argument(flux, conditions, latents):
    linear, called = bind_linears(flux), []

    def count(name, x):
        called.append(name)
        return linear(name, x)

    predict_velocity(flux, count, latents[:4], *conditions, mx.full(4, 500.0), mx.arange(4))
    assert sorted(called) == sorted(layer.name for layer in list_linears(2, 3))


def test_layers_with_one_input_name_read_the_same_activation(flux, conditions, latents):
    linear, read = bind_linears(flux), {}
    inputs = {layer.name: layer.input for layer in list_linears(2, 3)}

    def record(name, x):
        read.setdefault(inputs[name], []).append(x)
        return linear(name, x)

    predict_velocity(flux, record, latents[:4], *conditions, mx.full(4, 500.0), mx.arange(4))
    assert len(read["uni_01.unified.attn.qkv"]) == 4  # the MLP beside the attention reads what it reads
    assert all(mx.array_equal(x, first) for first, *others in read.values() for x in others)


def test_a_captured_block_replays_the_forward(posed):
    """The targets are stored as fp16; nothing reads the last block's text."""
    problem, _ = posed
    errors = measure_errors(problem, problem.weights, lambda rows: quantize_nothing, EVERY)
    assert list(errors) == (["image"] if problem.block.name == "uni_02" else ["image", "text"])
    assert max(errors.values()) < 1e-6


def test_the_remaining_blocks_give_the_velocity(captured, flux, posed):
    problem, _ = posed
    index = [block.name for block in blocks.build_blocks(flux, LATENT_SHAPE)].index(problem.block.name)
    where = spread_points(captured.sigmas, captured.points, np.zeros(30, int), 1, 5)
    finish = compare_velocities(bind_tail(flux, index, LATENT_SHAPE), captured.modulation, 1, 1.0)
    outputs = run_rows(problem, problem.weights, quantize_nothing, take_rows(problem.rows, where))
    tail = bind_tail(flux, len(captured.states) - 2, LATENT_SHAPE)
    wanted = tail(
        mx.array(captured.states[-1][0][where]).astype(mx.float32), None, mx.array(captured.modulation[where])
    )
    assert measure_error(finish(outputs, where)["velocity"], wanted) < 1e-3  # from states of fp16


def test_unaffected_values_are_kept_and_only_affected_ones_recomputed(posed, captured):
    problem, rules = posed
    layers, where = list_own_linears(captured.model, problem.block.name), EVERY[::5]
    linears = [layer for layer in layers if layer.name in problem.weights]
    for layer in layers:
        weights, _ = round_by_width(captured.model, layer, rules[layer.name]["weight"])
        changes = bind_changes(captured.model, problem, layer, weights[:1], captured.modulation)
        kept = list_kept(linears, [layer])
        shared, alone = (measure_changes(problem, where, k, changes, compare_streams).relate() for k in (kept, set()))
        for name in alone:
            np.testing.assert_allclose(shared[name], alone[name], rtol=1e-4, atol=1e-12)


def test_attention_and_mlp_of_a_unified_block_do_not_affect_each_other(captured):
    layers = {layer.role: layer for layer in list_own_linears(captured.model, "uni_01")}  # of q, k and v the last
    linears = [layer for role, layer in layers.items() if role != "adaLN"]
    kept = {role: list_kept(linears, [layer]) for role, layer in layers.items()}
    assert kept["qkv"] == {layers[role].name for role in ("fc1", "fc2")}
    assert kept["fc1"] == {layers[role].name for role in ("qkv", "o")}
    assert list_kept(linears, [layers["qkv"], layers["fc1"]]) == set()


def test_a_unified_block_is_learned(captured):
    """Queries, keys, values and the MLP share one quantizer; what is learned is better than rounding to nearest."""
    problem, rules = captured.pose("uni_01")
    readers = ("attn.q_proj", "attn.o_proj", "mlp.fc2")
    assert set(problem.readers.values()) == {f"uni_01.unified.{name}" for name in readers}
    grids, quantizers, _ = set_up(problem, rules)
    longer = {"adaround_start": "gptq", "adaround_iterations": 60, "adaround_rate": 0.05}
    settings = replace(SETTINGS, **longer | {"adaround_checkpoint_every": 60})
    candidates = list_candidates(problem, grids, quantizers, settings, ignore_progress())
    errors = [measure_candidate(problem, grids, candidate) for candidate in candidates]
    assert [candidate.engine for candidate in candidates] == ["rtn", "gptq", "adaround"]
    totals = [sum(error["quantized_inputs"].values()) for error in errors]
    assert totals[2] < 0.95 * totals[0]
    assert choose_candidate(candidates, errors) == int(np.argmin(totals))
