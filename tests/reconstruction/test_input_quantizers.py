"""The initial input quantizers: policies, ranges, and the post-GELU shift."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.activation import quantize_dequantize
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.momentum_shift import compute_momentum_shift
from taqmlx.reconstruction.block_problem import run_rows, take_rows
from taqmlx.reconstruction.input_quantizers import (
    Extremes,
    bind_dropping,
    bind_rounding,
    bind_to_rows,
    calibrate,
    calibrate_step_sizes,
    choose_quantizer,
    leave_unrounded,
    list_steps,
    observe_inputs,
)
from tests.support.blocks import ACTIVATION, quantize_nothing

SIGMAS = np.array([1.0, 0.7, 0.6, 0.1])
KNOTS = np.array([0, 0, 1, 3, 3])  # no row at 0.6
FC2, QUERY = "mm_01.image.mlp.fc2", "mm_01.image.attn.q_proj"


@pytest.fixture
def inputs():
    """Five rows (5, 6, 8), largest where the noise is least, and one-sided."""
    x = np.random.default_rng(0).standard_normal((5, 6, 8)).astype(np.float32)
    return (x + 1) * np.array([1, 2, 3, 4, 5], np.float32)[:, None, None]


@pytest.fixture
def seen(inputs):
    return Extremes(inputs.min(axis=1), inputs.max(axis=1), inputs.reshape(5, -1))


def choose(seen, key=QUERY, **changes):
    return choose_quantizer(key, seen, ACTIVATION | changes, KNOTS, SIGMAS, 0)


def quantize_slowly(x, step, bits=8, shift=0.0, migration=1.0):
    """Q((x - z) / m) + z / m in float64."""
    largest = 2 ** (bits - 1) - 1
    codes = np.clip(np.rint((x.astype(np.float64) - shift) / migration / step), -largest, largest)
    return codes * step + shift / migration


class TestSteps:
    def test_a_table_follows_the_absmax_of_each_noise_level(self, inputs, seen):
        expected = [np.abs(inputs[rows]).max() / 127 for rows in ([0, 1], [2], [2], [3, 4])]
        np.testing.assert_allclose(np.array(choose(seen).steps), expected, rtol=1e-6)

    def test_a_noise_level_without_rows_has_the_step_size_of_the_nearest(self, seen):
        first, second, without, last = choose(seen).steps.tolist()
        assert without == second
        assert len({first, second, last}) == 3

    def test_a_static_step_size_is_the_largest_of_all(self, inputs, seen):
        found = choose(seen, policy="static")
        assert found.steps.shape == (1,)
        assert found.steps.item() == pytest.approx(np.abs(inputs).max() / 127)

    @pytest.mark.parametrize("bits", [4, 6, 8])
    def test_the_bits_determine_the_number_of_levels(self, inputs, seen, bits):
        step = choose(seen, policy="static", bits=bits).steps.item()
        assert step == pytest.approx(np.abs(inputs).max() / (2 ** (bits - 1) - 1))

    def test_dynamic_and_unquantized_inputs_store_no_step_size(self, seen):
        assert choose(seen, policy="dynamic").identity == InputQuantizer("dynamic", 8).identity
        found = choose_quantizer(QUERY, seen, {"bits": 16}, KNOTS, SIGMAS, 0)
        assert found.identity == InputQuantizer("none", 16).identity

    def test_the_quantile_range_is_that_of_the_sample(self, seen):
        """The larger of the two tails, on either side."""
        for sign in (1, -1):
            flipped = Extremes(*sorted((sign * seen.minimum, sign * seen.maximum), key=np.sum), sign * seen.sample)
            expected = [
                max(abs(np.quantile(flipped.sample[rows], 0.001)), abs(np.quantile(flipped.sample[rows], 0.999))) / 127
                for rows in ([0, 1], [2], [2], [3, 4])
            ]
            np.testing.assert_allclose(np.array(choose(flipped, range="p999").steps), expected, rtol=1e-6)
        assert (np.array(choose(seen, range="p999").steps) < np.array(choose(seen).steps)).all()

    def test_inputs_of_zeros_have_a_positive_step_size(self):
        zeros = Extremes(np.zeros((5, 8), np.float32), np.zeros((5, 8), np.float32), np.zeros((5, 9), np.float32))
        found = choose(zeros)
        assert (np.array(found.steps) > 0).all()
        rounded = bind_rounding({QUERY: found}, list_steps({QUERY: found}), mx.array(KNOTS))(QUERY, mx.zeros((5, 3, 8)))
        assert (np.array(rounded) == 0).all()


class TestShift:
    def test_only_post_gelu_inputs_are_shifted(self, seen):
        assert choose(seen, key=QUERY).shift is None
        assert choose(seen, key="mm_01.image.mlp.fc1").shift is None
        assert choose(seen, key=FC2, shift=False).shift is None
        found = choose(seen, key=FC2)
        expected = compute_momentum_shift(seen.minimum, seen.maximum, np.random.default_rng(0))
        np.testing.assert_array_equal(np.array(found.shift), expected)

    @pytest.mark.parametrize("range_name", ["absmax", "p999"])
    def test_step_sizes_cover_the_shifted_range(self, inputs, seen, range_name):
        found = choose(seen, key=FC2, range=range_name)
        left = np.abs(inputs - np.array(found.shift))
        expected = [left[rows].max() / 127 for rows in ([0, 1], [2], [2], [3, 4])]
        np.testing.assert_allclose(np.array(found.steps), expected, rtol=1e-5)
        assert np.array(found.steps).max() < np.array(choose(seen, key=FC2, shift=False).steps).max()


class TestQuantizing:
    def test_each_row_has_the_step_size_of_its_noise_level(self, inputs, seen):
        quantizers = {QUERY: choose(seen)}
        found = bind_rounding(quantizers, list_steps(quantizers), mx.array(KNOTS))(QUERY, mx.array(inputs))
        steps = np.array(quantizers[QUERY].steps)[KNOTS][:, None, None]
        np.testing.assert_allclose(np.array(found), quantize_slowly(inputs, steps), atol=1e-5)

    def test_a_static_step_size_applies_to_all_rows(self, inputs, seen):
        quantizers = {QUERY: choose(seen, policy="static", bits=5)}
        found = bind_rounding(quantizers, list_steps(quantizers), mx.array(KNOTS))(QUERY, mx.array(inputs))
        expected = quantize_slowly(inputs, quantizers[QUERY].steps.item(), 5)
        np.testing.assert_allclose(np.array(found), expected, atol=1e-5)

    def test_a_dynamic_step_size_is_per_token(self, inputs):
        found = bind_rounding({QUERY: InputQuantizer("dynamic", 8)}, {}, mx.array(KNOTS))(QUERY, mx.array(inputs))
        step = np.abs(inputs).max(axis=-1, keepdims=True) / np.float32(127)
        np.testing.assert_allclose(np.array(found), quantize_slowly(inputs, step), atol=1e-5)

    def test_an_unquantized_input_is_unchanged(self, inputs):
        found = bind_rounding({QUERY: InputQuantizer("none", 16)}, {}, mx.array(KNOTS))(QUERY, mx.array(inputs))
        np.testing.assert_array_equal(np.array(found), inputs)

    @pytest.mark.parametrize("shifted", [False, True])
    @pytest.mark.parametrize("migrated", [False, True])
    def test_shift_and_migration_follow_the_formula(self, inputs, shifted, migrated):
        shift = np.linspace(0, 3, 8).astype(np.float32) if shifted else None
        migration = np.array([5, 1, 1, 3, 1, 1, 1, 2], np.int32) if migrated else None
        quantizer = InputQuantizer("static", 8, np.array([0.06], np.float32), shift, migration)
        found = quantizer.bind_rows(mx.array(KNOTS))(mx.array(inputs))
        z, m = 0.0 if shift is None else shift, 1.0 if migration is None else migration
        np.testing.assert_allclose(np.array(found), quantize_slowly(inputs, np.float32(0.06), 8, z, m), atol=1e-5)
        unrounded = leave_unrounded({QUERY: quantizer})(QUERY, mx.array(inputs))
        np.testing.assert_allclose(np.array(unrounded), inputs / m, rtol=1e-6)

    def test_the_quantization_equals_that_of_inference(self, inputs, seen):
        quantizer = choose(seen, key=FC2, policy="static")
        found = bind_rounding({FC2: quantizer}, list_steps({FC2: quantizer}), mx.array(KNOTS))(FC2, mx.array(inputs))
        expected = quantize_dequantize(mx.array(inputs), quantizer.steps.item(), 8, mx.array(quantizer.shift))
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-6)

    def test_dropping_leaves_about_the_configured_share_unquantized(self):
        x = mx.random.normal((4, 50, 64), key=mx.random.key(0))
        quantizers = {
            QUERY: InputQuantizer("static", 4, np.array([0.5], np.float32)),
            FC2: InputQuantizer("static", 4, np.array([0.5], np.float32)),
        }
        rounding = bind_rounding(quantizers, list_steps(quantizers), mx.zeros(4, mx.int32))
        rounded = np.array(rounding(QUERY, x))
        bind = [bind_dropping(quantizers, rounding, 0.25, mx.random.key(key)) for key in (1, 1, 2)]
        first, again, other = (np.array(drop(QUERY, x)) for drop in bind)
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        assert (np.array(bind[0](FC2, x)) != first).any()  # every input has its own
        plain = first == np.array(x)
        assert abs(plain.mean() - 0.25) < 0.02
        np.testing.assert_allclose(first[~plain], rounded[~plain], atol=1e-6)


class TestOnABlock:
    def test_the_observed_values_are_the_layer_inputs(self, study):
        problem, *_ = study
        read, rows = {}, take_rows(problem.rows, problem.training)

        def keep(key, x):
            read[key] = np.array(x)
            return x

        run_rows(problem, problem.weights, keep, rows)
        observed = observe_inputs(problem, problem.training)
        assert observed.keys() == read.keys() == set(problem.readers.values())
        for key, seen in observed.items():
            np.testing.assert_allclose(seen.minimum, read[key].min(axis=1), atol=1e-6)
            np.testing.assert_allclose(seen.maximum, read[key].max(axis=1), atol=1e-6)
            assert set(seen.sample[0].tolist()) <= set(read[key][0].ravel().tolist())

    def test_an_input_is_calibrated_once_for_all_its_readers(self, study):
        problem, rules, *_ = study
        quantizers, _ = calibrate(problem, {name: rule["activation"] for name, rule in rules.items()}, 0)
        assert len(quantizers) == 8
        assert all(quantizer.steps.shape == (5,) for quantizer in quantizers.values())
        shifted = [key for key, quantizer in quantizers.items() if quantizer.shift is not None]
        assert shifted == ["mm_01.image.mlp.fc2", "mm_01.text.mlp.fc2"]

    def test_an_input_under_two_rules_has_two_quantizers(self, captured):
        problem, rules = captured.pose(others={"image.attn.v_proj": {"activation": ACTIVATION | {"bits": 4}}})
        quantizers, _ = calibrate(problem, {name: rule["activation"] for name, rule in rules.items()}, 0)
        one, other = quantizers[QUERY], quantizers["mm_01.image.attn.v_proj"]
        assert (one.bits, other.bits) == (8, 4)
        np.testing.assert_allclose(np.array(other.steps) * 7, np.array(one.steps) * 127, rtol=1e-5)

    def test_only_training_rows_are_used(self, captured):
        problem, rules = captured.pose()
        activations = {name: rule["activation"] for name, rule in rules.items()}
        before = calibrate(problem, activations, 0)[0]
        problem.rows.image[problem.held_out] *= 3
        after = calibrate(problem, activations, 0)[0]
        problem.rows.image[problem.held_out] /= 3
        assert all(np.array_equal(before[key].steps, after[key].steps) for key in before)

    def test_8_bits_are_close_to_full_precision_and_4_are_not(self, study):
        problem, _, _, quantizers = study
        rows = take_rows(problem.rows, problem.held_out)
        exact = np.array(run_rows(problem, problem.weights, quantize_nothing, rows)["image"])
        coarse = {key: replace(quantizer, steps=16 * quantizer.steps, bits=4) for key, quantizer in quantizers.items()}
        errors = [
            np.square(
                np.array(run_rows(problem, problem.weights, bind_to_rows(chosen)(rows), rows)["image"]) - exact
            ).mean()
            for chosen in (quantizers, coarse)
        ]
        assert errors[0] < 1e-3 * np.square(exact).mean()
        assert errors[1] > 20 * errors[0]


def test_step_sizes_are_in_the_order_of_the_noise_levels():
    """Whatever the order of the rows."""
    rng = np.random.default_rng(1)
    sigma_index = rng.permutation(np.repeat(np.arange(4), 3))
    size = (sigma_index + 1.0).astype(np.float32)[:, None] * np.ones((1, 8), np.float32)
    steps = calibrate_step_sizes(Extremes(-size, size, size), None, ACTIVATION, sigma_index, SIGMAS)
    np.testing.assert_allclose(steps, np.arange(1, 5) / 127, rtol=1e-6)
