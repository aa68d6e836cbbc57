"""Learning a block: every layer is learned, the held-out error falls, and it can be stopped, resumed and repeated."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics import rounding
from taqmlx.numerics.weight_grid import dequantize, round_to_grid
from taqmlx.planning.block_plan import PHASE_COUNTS
from taqmlx.reconstruction import reconstruction
from taqmlx.reconstruction.block_problem import compute_loss, run_rows, take_rows
from taqmlx.reconstruction.flat_weights import start_at_weights
from taqmlx.reconstruction.input_quantizers import leave_unrounded, list_steps
from taqmlx.reconstruction.reconstruction import PHASES, bind_iteration, draw_batch, schedule_regularizer
from taqmlx.reconstruction.state import read_quantizers, start_state
from taqmlx.reconstruction.state_arrays import pack_state
from tests.support.blocks import ACTIVATION, SETTINGS, UNQUANTIZED, as_arrays, differs, learn_quietly, set_up

# What mm_01 learns, the layers whose outputs are quantized again before they reach the block's among them.
UPSTREAM = [f"mm_01.{stream}.{part}" for stream in ("image", "text") for part in
            ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc1")]  # fmt: skip


@pytest.fixture(scope="module")
def last_block(captured):
    """The last block, which has no text output."""
    problem, rules = captured.pose("mm_04")
    grids, quantizers, _ = set_up(problem, rules)
    return problem, start_at_weights(problem.weights, grids), quantizers


class TestGradients:
    @pytest.mark.parametrize("bits", [4, 8])
    def test_the_loss_moves_the_rounding_of_every_layer(self, study, flat, bits, captured):
        """With no regularizer: where rounding an activation has a gradient of zero, only o_proj and fc2 would move."""
        problem, rules = captured.pose(activation=ACTIVATION | {"bits": bits})
        _, quantizers, _ = set_up(problem, rules)
        settings = replace(SETTINGS, adaround_weight=0, adaround_iterations=1)
        state = learn_quietly(problem, flat, quantizers, settings)
        assert set(UPSTREAM) < set(flat.shapes)
        for name, change in flat.split(state.alpha - flat.start_alpha()).items():
            assert (np.abs(np.array(change)) > 1e-3).mean() > 0.9, name  # Adam's first step is as long as the rate

    def test_the_loss_moves_every_step_size(self, study, flat):
        problem, _, _, quantizers = study
        settings = replace(SETTINGS, adaround_weight=0, adaround_iterations=1, adaround_batch=44)
        state = learn_quietly(problem, flat, quantizers, settings)
        for key, steps in list_steps(quantizers).items():
            change = np.array(state.log_steps[key]) - np.log(np.array(steps))
            np.testing.assert_allclose(np.abs(change), SETTINGS.adaround_step_rate, rtol=0.1, err_msg=key)

    def test_only_the_step_sizes_of_the_noise_levels_in_a_batch_move(self, study, flat):
        problem, _, _, quantizers = study
        problem = replace(problem, training=problem.training[problem.rows.sigma_index[problem.training] == 2])
        state = learn_quietly(problem, flat, quantizers, replace(SETTINGS, adaround_iterations=1))
        for key, steps in list_steps(quantizers).items():
            moved = np.array(state.log_steps[key]) != np.log(np.array(steps))
            assert np.flatnonzero(np.abs(np.array(state.log_steps[key] - mx.log(steps))) > 1e-6).tolist() == [2], moved

    def test_the_gradient_agrees_with_finite_differences(self, study, flat):
        """Without rounded activations the loss is smooth in the soft weights; along each layer's own gradient."""
        problem, _, _, quantizers = study
        rows, quantize = take_rows(problem.rows, problem.training[:8]), leave_unrounded(quantizers)

        def measure(weights):
            return compute_loss(problem, run_rows(problem, problem.weights | weights, quantize, rows), rows)

        def soften(alpha):
            return flat.split(flat.soften(rounding.compute_rounding(alpha)))

        alpha = flat.start_alpha() + 1.0
        found = flat.differentiate(rounding.compute_rounding(alpha), mx.grad(measure)(soften(alpha)), None)
        for name in UPSTREAM:
            nothing = {other: mx.zeros(shape) for other, shape in flat.shapes.items()}
            direction = flat.join(nothing | {name: mx.sign(flat.split(found)[name])})
            ends = [measure(soften(alpha + step * direction)).item() for step in (0.005, -0.005)]
            assert mx.abs(found * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 0.01, rel=0.05), name

    def test_a_gradient_of_zero_does_not_move_alpha(self, study, flat):
        problem, _, _, quantizers = study
        silent = replace(problem, powers=dict.fromkeys(problem.powers, np.inf))  # no error weighs anything
        settings = replace(SETTINGS, adaround_weight=0, adaround_iterations=3)
        state = learn_quietly(silent, flat, quantizers, settings)
        assert mx.array_equal(state.alpha, flat.start_alpha())
        assert all(np.isfinite(value).all() for value in as_arrays(state).values())


class TestStart:
    def test_with_unquantized_activations_the_first_loss_is_almost_zero(self, study, flat):
        problem, _, grids, quantizers = study
        settings = replace(SETTINGS, reconstruction="separate", adaround_iterations=1)
        first = learn_quietly(problem, flat, quantizers, settings).losses[0]
        nearest = {n: mx.array(dequantize(round_to_grid(np.array(problem.weights[n]), g), g)) for n, g in grids.items()}
        rows, _ = draw_batch(problem, settings, (0, 0))
        rounded = compute_loss(problem, run_rows(problem, nearest, leave_unrounded(quantizers), rows), rows).item()
        assert first < 1e-5 * rounded

    def test_with_quantized_activations_the_first_loss_is_theirs_alone(self, study, flat):
        problem, _, _, quantizers = study
        first = learn_quietly(problem, flat, quantizers, replace(SETTINGS, adaround_iterations=1)).losses[0]
        rows, _ = draw_batch(problem, SETTINGS, (0, 0))
        quantize = reconstruction.bind_to_rows(quantizers)(rows)
        expected = compute_loss(problem, run_rows(problem, problem.weights, quantize, rows), rows).item()
        assert first == pytest.approx(expected, rel=1e-2)

    def test_everything_learned_is_fp32(self, study, flat):
        problem, _, _, quantizers = study
        state = learn_quietly(problem, flat, quantizers, replace(SETTINGS, adaround_iterations=3))
        _, arrays = pack_state(state)
        assert {value.dtype.name for value in arrays.values()} == {"float32"}
        saved = []
        learn_quietly(problem, flat, quantizers, SETTINGS, save=lambda state: saved.append(pack_state(state)[1]))
        kinds = {value.dtype.name for arrays in saved for key, value in arrays.items() if not key.endswith(" step")}
        assert kinds == {"float32"}

    def test_batches_depend_only_on_seed_and_iteration(self, study):
        problem = study[0]
        draw = [draw_batch(problem, replace(SETTINGS, seed=seed), place)[0] for seed, place in
                ((0, (0, 5)), (0, (0, 5)), (1, (0, 5)), (0, (1, 5)), (0, (0, 6)))]  # fmt: skip
        assert mx.array_equal(draw[0].image, draw[1].image)
        assert all(not mx.array_equal(draw[0].image, other.image) for other in draw[2:])
        everything, _ = draw_batch(problem, replace(SETTINGS, adaround_batch=10**6), (0, 0))
        assert sorted(everything.sigma_index.tolist()) == sorted(problem.rows.sigma_index[problem.training].tolist())

    def test_the_regularizer_is_off_in_the_warm_up(self):
        settings = replace(SETTINGS, adaround_iterations=10)
        assert [schedule_regularizer(settings, i) for i in (0, 1, 2)] == [None, None, (0.01, 20)]
        assert schedule_regularizer(settings, 9)[1] == pytest.approx(20 - 18 * 7 / 8)

    def test_the_regularizer_decides_the_codes_that_the_loss_leaves_open(self, study, flat):
        problem, _, _, quantizers = study
        ends = []
        for weight in (0, 1.0):
            settings = replace(
                SETTINGS, adaround_iterations=40, adaround_batch=4, adaround_rate=0.2, adaround_weight=weight
            )
            h = np.array(rounding.compute_rounding(learn_quietly(problem, flat, quantizers, settings).alpha))
            ends.append(((h < 0.01) | (h > 0.99)).mean())
        assert ends[1] > ends[0] + 0.3


class TestPhases:
    def test_separate_learning_moves_codes_first_and_step_sizes_afterwards(self, study, flat):
        problem, _, grids, quantizers = study
        settings = replace(SETTINGS, reconstruction="separate", adaround_checkpoint_every=1)
        seen = []
        start = start_state(flat, quantizers)
        steps = {key: np.array(value) for key, value in start.log_steps.items()}
        end = learn_quietly(
            problem, flat, quantizers, settings, start, lambda s: seen.append((s.phase, s.iteration, as_arrays(s)))
        )
        assert [(phase, iteration) for phase, iteration, _ in seen] == [(p, i) for p in (0, 1) for i in range(1, 7)]
        for phase, _, arrays in seen:
            for key, value in steps.items():
                assert (arrays[key] == value).all() == (phase == 0)
            if phase == 1:
                np.testing.assert_array_equal(arrays["alpha"], seen[5][2]["alpha"])
        assert (seen[0][2]["alpha"] != np.array(flat.start_alpha())).any()
        assert len(end.losses) == 12
        codes = flat.take_codes(end.alpha, grids)
        assert all((codes[n] == c).all() for n, c in flat.take_codes(mx.array(seen[5][2]["alpha"]), grids).items())

    def test_the_second_phase_uses_hard_weights(self, study, flat):
        problem, _, _, quantizers = study
        settings = replace(SETTINGS, reconstruction="separate")
        state = replace(start_state(flat, quantizers), phase=1)
        iterate = bind_iteration(problem, flat, quantizers, settings, PHASES["separate"][1], state)
        rows, _ = draw_batch(problem, settings, (1, 0))
        hard = flat.split(flat.harden(flat.start_alpha()))
        quantize = reconstruction.bind_to_rows(quantizers)(rows)
        expected = compute_loss(problem, run_rows(problem, hard, quantize, rows), rows).item()
        assert iterate(0) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("activation", [UNQUANTIZED, ACTIVATION | {"policy": "dynamic"}])
    @pytest.mark.parametrize("way", ["joint", "separate"])
    def test_without_step_sizes_only_the_rounding_is_learned(self, captured, activation, way):
        problem, rules = captured.pose(activation=activation)
        grids, quantizers, _ = set_up(problem, rules)
        flat = start_at_weights(problem.weights, grids)
        state = learn_quietly(problem, flat, quantizers, replace(SETTINGS, reconstruction=way))
        assert state.log_steps == {}
        assert not mx.array_equal(state.alpha, flat.start_alpha())

    @pytest.mark.parametrize("way", ["joint", "separate"])
    def test_without_quantized_weights_only_step_sizes_are_learned(self, captured, way):
        problem, rules = captured.pose(weight=UNQUANTIZED)
        grids, quantizers, _ = set_up(problem, rules)
        flat = start_at_weights(problem.weights, grids)
        start = start_state(flat, quantizers)
        assert differs(learn_quietly(problem, flat, quantizers, replace(SETTINGS, reconstruction=way)), start)

    @pytest.mark.parametrize("way", ["joint", "separate"])
    def test_with_nothing_to_learn_no_iteration_runs(self, captured, way):
        problem, rules = captured.pose(weight=UNQUANTIZED, activation=UNQUANTIZED)
        grids, quantizers, _ = set_up(problem, rules)
        flat = start_at_weights(problem.weights, grids)
        assert learn_quietly(problem, flat, quantizers, replace(SETTINGS, reconstruction=way)).losses == []

    def test_some_layers_can_stay_unquantized(self, captured):
        problem, rules = captured.pose(others={"mlp.fc2": {"weight": UNQUANTIZED, "activation": UNQUANTIZED}})
        grids, quantizers, _ = set_up(problem, rules)
        flat = start_at_weights(problem.weights, grids)
        state = learn_quietly(problem, flat, quantizers, SETTINGS)
        assert not any(name.endswith("fc2") for name in [*flat.shapes, *state.log_steps])

    def test_the_last_block_is_learned_from_its_image_alone(self, last_block):
        problem, flat, quantizers = last_block
        assert problem.powers.keys() == {"image"}
        state = learn_quietly(problem, flat, quantizers, replace(SETTINGS, adaround_weight=0))
        moved = flat.split(state.alpha - flat.start_alpha())
        assert len(moved) == 9
        assert (np.abs(np.array(moved["mm_04.text.attn.k_proj"])) > 1e-3).mean() > 0.9


def test_learned_rounding_is_better_than_rtn_on_held_out_points(study, flat):
    problem, _, grids, quantizers = study
    settings = replace(SETTINGS, adaround_iterations=120, adaround_batch=16)
    state = learn_quietly(problem, flat, quantizers, settings)
    learned = flat.split(flat.harden(state.alpha))
    nearest = {n: mx.array(dequantize(round_to_grid(np.array(problem.weights[n]), g), g)) for n, g in grids.items()}
    errors = [
        reconstruction_error(problem, weights, chosen)
        for weights, chosen in ((nearest, quantizers), (learned, read_quantizers(quantizers, state)))
    ]
    assert errors[1] < 0.95 * errors[0]  # 0.88 measured


def reconstruction_error(problem, weights, quantizers):
    rows = take_rows(problem.rows, problem.held_out)
    outputs = run_rows(problem, problem.weights | weights, reconstruction.bind_to_rows(quantizers)(rows), rows)
    return compute_loss(problem, outputs, rows).item()


def test_restoring_step_sizes_keeps_the_rest_of_a_quantizer(study, flat):
    quantizers = study[3]
    state = start_state(flat, quantizers)
    state.log_steps = {key: value + 1 for key, value in state.log_steps.items()}
    for key, found in read_quantizers(quantizers, state).items():
        np.testing.assert_allclose(np.array(found.steps), np.e * np.array(quantizers[key].steps), rtol=1e-5)
        assert replace(found, steps=quantizers[key].steps).identity == quantizers[key].identity


def test_the_plan_counts_the_phases():
    assert {name: len(phases) for name, phases in PHASES.items()} == PHASE_COUNTS
