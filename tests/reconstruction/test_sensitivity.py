"""The measured cost of quantizing one thing equals that of running the whole block with it."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.models.embedded import LATENT_SHAPE
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.reconstruction import sensitivity
from taqmlx.reconstruction.block_assembly import list_own_linears, modulate_rows, read_weights
from taqmlx.reconstruction.block_problem import run_rows, take_rows
from taqmlx.reconstruction.input_histograms import BINS, measure_distributions
from taqmlx.reconstruction.input_quantizers import observe_inputs
from taqmlx.reconstruction.input_sensitivity import CLIPS, measure_inputs
from taqmlx.reconstruction.sensitivity import compare_streams, list_kept, measure_changes, spread_rows
from taqmlx.reconstruction.velocity import bind_tail, compare_velocities, measure_gains, spread_points
from taqmlx.reconstruction.weight_sensitivity import (
    bind_changes,
    measure_weights,
    replace_parts,
    round_block,
    round_by_width,
)
from tests.support.blocks import ACTIVATION, quantize_nothing

WEIGHT = {"bits": 4, "group_size": 64, "symmetric": False, "range": "absmax"}
EVERY = np.arange(60)
PAIRS = np.arange(60).reshape(2, 30).T  # of rows, the negative one last: (points, 2)
SCALE = 3.0  # of the guidance


@pytest.fixture(scope="module", params=["mm_03", "mm_04"])
def posed(request, captured):
    """A block with a text output and the last one, which has none: problem, rules, linears, how velocities compare."""
    problem, rules = captured.pose(request.param, weight=WEIGHT, split=(EVERY, EVERY))
    tail = bind_tail(captured.model, int(request.param[-2:]), LATENT_SHAPE)
    finish = compare_velocities(tail, captured.modulation, 2, SCALE)
    return problem, rules, list_own_linears(captured.model, request.param), finish


@pytest.fixture(scope="module")
def weights_measured(posed, captured):
    problem, rules, layers, finish = posed
    return measure_weights(captured.model, problem, layers, rules, captured.modulation, finish, PAIRS[::7].ravel())


@pytest.fixture(scope="module")
def inputs_measured(posed):
    problem, rules, layers, _ = posed
    linears = [layer for layer in layers if layer.name in problem.weights]
    activations = {name: rule["activation"] for name, rule in rules.items()}
    return measure_inputs(problem, linears, observe_inputs(problem, EVERY), activations, 0)


def relate(found, exact) -> float:
    exact = np.array(exact, np.float64)
    return np.square(np.array(found) - exact).sum() / np.square(exact).sum()


# Weights


def test_every_layer_of_the_block_and_the_modulation_are_measured(posed, weights_measured):
    _, _, layers, _ = posed
    assert list(weights_measured) == [layer.name for layer in layers]
    for layer in layers:
        entry = weights_measured[layer.name]
        assert entry["config_bits"] == 4
        assert [error["bits_per_weight"] for error in entry["errors"].values()] == [2.5, 3.5, 4.5, 5.5, 6.5, 8.5]


def test_more_bits_have_smaller_errors(posed, weights_measured):
    problem, _, _, _ = posed
    for entry in weights_measured.values():
        two, four, eight = (entry["errors"][bits] for bits in ("2", "4", "8"))
        for name in (*problem.powers, "velocity"):
            if two[name] > 0:
                assert eight[name] < 0.1 * four[name] < 0.1 * two[name]


def test_only_an_unused_layer_has_no_error(posed, weights_measured):
    """The text's queries in the last block: what they attend to is not read. A text's MLP there is none."""
    problem, _, _, _ = posed
    idle = [name for name, entry in weights_measured.items() if entry["errors"]["2"]["velocity"] == 0]
    assert idle == ([] if problem.block.text_reaches_output else ["mm_04.text.attn.q_proj"])


@pytest.mark.parametrize("suffix", ["image.attn.k_proj", "text.attn.v_proj", "image.attn.o_proj", "image.mlp.fc2"])
def test_the_error_of_a_weight_is_that_of_the_whole_block(posed, weights_measured, suffix):
    problem, rules, _, _ = posed
    name = f"{problem.block.name}.{suffix}"
    weight, rows = np.array(problem.weights[name]), take_rows(problem.rows, EVERY)
    grid = choose_grid(weight, rules[name]["weight"] | {"bits": 3})
    rounded = problem.weights | {name: mx.array(dequantize(round_to_grid(weight, grid), grid))}
    exact, found = (run_rows(problem, weights, quantize_nothing, rows) for weights in (problem.weights, rounded))
    for stream in problem.powers:
        expected = relate(found[stream], exact[stream])
        assert weights_measured[name]["errors"]["3"][stream] == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_the_error_of_a_modulation_is_that_of_its_rows(posed, weights_measured, captured):
    problem, rules, layers, _ = posed
    layer = next(layer for layer in layers if layer.name.endswith("text.adaLN_modulation"))
    weights, biases = read_weights(captured.model, [layer])
    weight, rows = np.array(weights[layer.name]), take_rows(problem.rows, EVERY)
    grid = choose_grid(weight, rules[layer.name]["weight"] | {"bits": 3})
    rounded = {layer.name: mx.array(dequantize(round_to_grid(weight, grid), grid))}
    wrong = mx.array(modulate_rows(rounded, biases, problem.block.name, "text", captured.modulation))
    exact = run_rows(problem, problem.weights, quantize_nothing, rows)
    found = run_rows(
        problem, problem.weights, quantize_nothing, rows._replace(modulations=rows.modulations | {"text": wrong})
    )
    for stream in problem.powers:
        expected = relate(found[stream], exact[stream])
        assert weights_measured[layer.name]["errors"]["3"][stream] == pytest.approx(expected, rel=1e-3)


def test_layers_of_16_bits_are_left_out(posed, captured):
    problem, rules, layers, finish = posed
    some = {layer.name: {"weight": {"bits": 16}, "activation": ACTIVATION} for layer in layers[:-1]}
    kept = {layers[-1].name: rules[layers[-1].name]}
    measured = measure_weights(captured.model, problem, layers, some | kept, captured.modulation, finish, PAIRS[0])
    assert list(measured) == list(kept)


# What changes share


def test_unaffected_values_are_kept_and_only_affected_ones_recomputed(posed, captured):
    """The outputs are those of computing everything, for a change of any layer."""
    problem, rules, layers, _ = posed
    linears = [layer for layer in layers if layer.name in problem.weights]
    where = EVERY[::9]
    for layer in layers:
        weights, _ = round_by_width(captured.model, layer, rules[layer.name]["weight"])
        changes = bind_changes(captured.model, problem, layer, weights[:1], captured.modulation)
        shared = measure_changes(problem, where, list_kept(linears, [layer]), changes, compare_streams).relate()
        alone = measure_changes(problem, where, set(), changes, compare_streams).relate()
        for name in alone:
            np.testing.assert_allclose(shared[name], alone[name], rtol=1e-4, atol=1e-12)


def test_most_values_are_kept_late_in_the_block(posed):
    problem, _, layers, _ = posed
    linears = [layer for layer in layers if layer.name in problem.weights]
    last = next(layer for layer in linears if layer.name.endswith("image.mlp.fc2"))
    assert list_kept(linears, [last]) == {layer.name for layer in linears} - {last.name}


def test_an_unchanged_layer_has_no_error(posed, captured):
    problem, _, _, finish = posed
    same = [replace_parts(problem, {}, {}), replace_parts(problem, dict(problem.weights), {})]
    for compare in (compare_streams, finish):
        for errors in measure_changes(problem, PAIRS[::9].ravel(), set(), same, compare).relate().values():
            assert errors.tolist() == [0, 0]


def test_batches_do_not_change_an_error(posed, captured, monkeypatch):
    problem, rules, layers, _ = posed
    weights, _ = round_by_width(captured.model, layers[1], rules[layers[1].name]["weight"])
    changes = bind_changes(captured.model, problem, layers[1], weights, captured.modulation)
    whole = measure_changes(problem, EVERY, set(), changes, compare_streams)
    monkeypatch.setattr(sensitivity, "PAIRS", 3)
    parts = measure_changes(problem, EVERY, set(), changes, compare_streams)
    for name in problem.powers:
        assert whole.errors[name].shape == (6, 60)
        np.testing.assert_allclose(parts.errors[name], whole.errors[name], rtol=1e-3)
        np.testing.assert_allclose(parts.relate()[name], whole.relate()[name], rtol=1e-4)


def test_rows_are_spread_over_the_noise_levels():
    sigmas = np.tile(np.array([0.1, 0.9, 0.5], np.float32), 20)
    chosen = spread_rows(sigmas, 12)
    assert len(set(chosen.tolist())) == 12
    assert [int((sigmas[chosen] == level).sum()) for level in (np.float32(0.1), 0.5, np.float32(0.9))] == [4, 4, 4]
    np.testing.assert_array_equal(spread_rows(sigmas, 100), np.arange(60))


def test_pairs_are_spread_over_the_noise_levels_each_with_its_negative():
    sigmas = np.tile(np.array([0.1, 0.9, 0.5], np.float32), 20)
    points, negative = np.tile(np.arange(30)[::-1] * 7, 2), np.repeat([1, 0], 30)  # in any order
    chosen = spread_points(sigmas, points, negative, 2, 12).reshape(12, 2)
    assert negative[chosen].tolist() == [[0, 1]] * 12
    assert (points[chosen[:, 0]] == points[chosen[:, 1]]).all()
    assert np.unique(sigmas[chosen[:, 0]], return_counts=True)[1].tolist() == [4, 4, 4]
    assert sorted(spread_points(sigmas, points, negative, 2, 100)) == list(range(60))


# Velocity


def test_the_remaining_blocks_give_the_velocity_of_the_model(captured):
    """The remaining blocks give the same velocity from the outputs of any block."""
    rows = EVERY[::10]
    modulation = mx.array(captured.modulation[rows])
    found = []
    for index in range(5):
        image, text = (
            None if part is None else mx.array(part[rows]).astype(mx.float32) for part in captured.states[index + 1]
        )
        found.append(np.array(bind_tail(captured.model, index, LATENT_SHAPE)(image, text, modulation)))
    for velocity in found:
        assert velocity.shape == (6, *LATENT_SHAPE)
        assert relate(velocity, found[0]) < 1e-5  # the streams are captured as fp16


def test_velocities_are_compared_under_guidance(posed, captured):
    """neg + w (pos - neg) of each pair, from the two rows' own velocities."""
    problem, _, _, finish = posed
    where = PAIRS[3:6].ravel()
    outputs = run_rows(problem, problem.weights, quantize_nothing, take_rows(problem.rows, where))
    tail = bind_tail(captured.model, int(problem.block.name[-2:]), LATENT_SHAPE)
    velocity = np.array(tail(outputs["image"], outputs.get("text"), mx.array(captured.modulation[where])))
    found = np.array(finish(outputs, where)["velocity"])
    assert found.shape == (3, *LATENT_SHAPE)
    for pair in range(3):
        positive, negative = velocity[2 * pair], velocity[2 * pair + 1]
        np.testing.assert_allclose(found[pair], negative + SCALE * (positive - negative), atol=1e-5)


def test_a_gain_relates_the_error_of_a_stream_to_that_of_the_velocity(posed, captured):
    problem, rules, layers, finish = posed
    where = PAIRS[::5].ravel()
    change = round_block(captured.model, problem, layers, rules, captured.modulation)
    gains = measure_gains(problem, where, change, finish)
    rows = take_rows(problem.rows, where)
    exact, wrong = run_rows(problem, problem.weights, quantize_nothing, rows), run_rows(problem, *change(rows, where))
    velocity = finish(exact, where)["velocity"]
    assert list(gains) == list(problem.powers)
    for name, gain in gains.items():
        perturbed = finish(exact | {name: wrong[name]}, where)["velocity"]
        assert gain == pytest.approx(relate(perturbed, velocity) / relate(wrong[name], exact[name]), rel=1e-3)
        assert gain > 0


def test_an_unperturbed_stream_has_no_gain(posed):
    problem, _, _, finish = posed
    gains = measure_gains(problem, PAIRS[:2].ravel(), replace_parts(problem, {}, {}), finish)
    assert gains == dict.fromkeys(problem.powers, 0)


def test_the_whole_block_is_perturbed_even_without_quantized_layers(posed, captured):
    problem, rules, layers, finish = posed
    unquantized = {name: {"weight": {"bits": 16}} for name in rules}
    change = round_block(captured.model, problem, layers, unquantized, captured.modulation)
    gains = measure_gains(problem, PAIRS[:2].ravel(), change, finish)
    assert all(gain > 0 for gain in gains.values())


# Inputs


def test_every_shared_input_is_measured_with_all_its_layers(posed, inputs_measured):
    problem, _, _, _ = posed
    assert {key: entry["layers"] for key, entry in inputs_measured.items()} == {
        key: [name for name, reader in problem.readers.items() if reader == key] for key in inputs_measured
    }
    assert set(inputs_measured) == set(problem.readers.values())
    assert {key for key, entry in inputs_measured.items() if entry["post_gelu"]} == {
        key for key in inputs_measured if key.endswith(".fc2")
    }


def test_more_input_bits_have_smaller_errors_at_each_noise_level(inputs_measured):
    for entry in inputs_measured.values():
        four, six, eight = (np.array(entry["tiers"][bits]["errors"]) for bits in ("4", "6", "8"))
        assert four.shape == (5,)
        assert (eight < six).all()
        assert (six < four).all()


def test_the_chosen_clip_has_the_smallest_error_and_the_stated_range(inputs_measured):
    for entry in inputs_measured.values():
        for bits, tier in entry["tiers"].items():
            clips = entry["clips"][bits]
            assert list(clips) == [f"{clip:g}" for clip in CLIPS]
            assert clips[f"{tier['clip']:g}"] == min(clips.values())
            assert 0.5 < tier["inside"] <= 1
            assert tier["clip"] < 1 or tier["inside"] == 1


@pytest.mark.parametrize("suffix", ["image.attn.q_proj", "image.mlp.fc2"])
def test_the_error_of_an_input_is_that_of_the_whole_block(posed, inputs_measured, suffix):
    """Written out: a step size for each noise level from its absmax, after the post-GELU shift."""
    problem, _, _, _ = posed
    key, bits = f"{problem.block.name}.{suffix}", 6
    entry = inputs_measured[key]["tiers"][str(bits)]
    seen = observe_inputs(problem, EVERY)[key]
    shift = np.zeros(seen.minimum.shape[1], np.float32)
    if key.endswith("fc2"):
        middles = (seen.minimum.min(axis=0).astype(np.float64) + seen.maximum.max(axis=0)) / 2
        order = np.random.default_rng(0).permutation(60)
        for batch in (order[:32], order[32:]):
            middle = (seen.minimum[batch].min(axis=0).astype(np.float64) + seen.maximum[batch].max(axis=0)) / 2
            middles = 0.95 * middles + 0.05 * middle
        shift = middles.astype(np.float32)
    for index, error in enumerate(entry["errors"]):
        where = np.flatnonzero(problem.rows.sigma_index == index)
        low, high = seen.minimum[where].min(axis=0) - shift, seen.maximum[where].max(axis=0) - shift
        largest = 2 ** (bits - 1) - 1
        step = entry["clip"] * max(np.abs(low).max(), np.abs(high).max()) / largest

        def quantize(name, x, step=step, largest=largest):
            if name != key:
                return x
            return mx.clip(mx.round((x - mx.array(shift)) / step), -largest, largest) * step + mx.array(shift)

        rows = take_rows(problem.rows, where)
        exact, found = (run_rows(problem, problem.weights, q, rows) for q in (quantize_nothing, quantize))
        expected = sum(relate(found[name], exact[name]) for name in problem.powers)
        assert error == pytest.approx(expected, rel=2e-2)  # a value half-way between two levels may go either way


# Distributions


def test_the_histograms_count_every_value_at_the_middle_noise_level(posed):
    problem, _, _, _ = posed
    described, arrays = measure_distributions(problem, observe_inputs(problem, EVERY), 0)
    where = np.flatnonzero(problem.rows.sigma_index == 2)
    values = {}
    run_rows(problem, problem.weights, lambda key, x: values.setdefault(key, x), take_rows(problem.rows, where))
    assert set(described) == {key for key in values if key.endswith(".fc2")}
    for key, grid in described.items():
        assert grid["knot"] == 2
        assert grid["sigma"] == problem.sigmas[2]
        for name, edges in (("before", "edges"), ("shifted", "shifted_edges"), ("migrated", "migrated_edges")):
            assert arrays[f"{key}/{name}"].shape == (BINS,)
            assert arrays[f"{key}/{edges}"].shape == (BINS + 1,)
            assert arrays[f"{key}/{name}"].sum() == values[key].size
        expected, _ = np.histogram(np.array(values[key]), arrays[f"{key}/edges"])
        assert np.abs(arrays[f"{key}/before"] - expected).sum() <= 4  # values on an edge
        bias_scale = np.abs(arrays[f"{key}/shifted_edges"][[0, -1]]).max()
        assert bias_scale == pytest.approx(127 * grid["step"], rel=1e-5)
        assert bias_scale <= np.abs(arrays[f"{key}/edges"][[0, -1]]).max()
        assert grid["migrated_step"] <= grid["step"] * (1 + 1e-6)
        if grid["has_migration"]:
            assert grid["migrated_step"] < grid["step"]
