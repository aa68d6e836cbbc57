"""Migration: outlier channels are divided by integers that multiply the weight columns, and nothing else changes."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.reconstruction.block_problem import measure_errors, run_rows, take_rows
from taqmlx.reconstruction.input_quantizers import Extremes, bind_to_rows, leave_unrounded
from taqmlx.reconstruction.migration import find_outliers, measure_absmax, migrate, migrate_weights, start_ratios
from tests.support.blocks import ACTIVATION, SETTINGS, quantize_nothing, set_up

FC2 = "mm_01.image.mlp.fc2"
MIGRATED = {"activation": ACTIVATION | {"migration": True, "policy": "static"}}
WIDE = [3, 40, 200]  # channels of fc2 that are made outliers
WARM_UP = {"adaround_iterations": 40, "adaround_warm_up": 0.5}  # 20 iterations of the migration


@pytest.fixture(scope="module")
def problem(captured):
    """Three channels of what fc2 reads made thirty times as wide, its weight's columns as much smaller: the same block.

    fc1's rows cannot be scaled through a GELU, so it is fc2's input that is scaled where it is read.
    """
    problem, rules = captured.pose(others={"image.mlp.fc2": MIGRATED, "text.mlp.fc2": MIGRATED})
    return problem, {name: rule["activation"] for name, rule in rules.items()}, rules


@pytest.fixture(scope="module")
def widened(problem):
    """Extremes and quantizers of the block, as if three channels of fc2's input were outliers."""
    block, activations, rules = problem
    _, quantizers, observed = set_up(block, rules)
    factor = np.ones(512, np.float32)
    factor[WIDE] = 30 * np.median(np.ptp(observed[FC2].maximum, axis=0) + 1)
    seen = observed[FC2]
    observed = observed | {FC2: Extremes(seen.minimum * factor, seen.maximum * factor, seen.sample)}
    return block, activations, quantizers, observed


@pytest.fixture(scope="module")
def migrated(widened):
    block, activations, quantizers, observed = widened
    return migrate(block, quantizers, observed, activations, replace(SETTINGS, **WARM_UP))


def test_outliers_exceed_two_and_a_half_times_the_median_range():
    ranges = np.array([1, 1, 1, 2.5, 2.51], np.float32)
    assert find_outliers(-ranges[None], 0 * ranges[None]).tolist() == [False] * 4 + [True]
    low, high = np.zeros((2, 5), np.float32), np.ones((2, 5), np.float32)
    low[0, 0], high[1, 0] = -1, 2  # a range is over all rows: 2 in each, 3 in both
    assert find_outliers(low, high).tolist() == [True] + [False] * 4


def test_the_absmax_is_the_largest_distance_from_the_shift():
    seen = Extremes(np.array([[-1.0, 0], [-2, 1]]), np.array([[3.0, 2], [1, 7]]), np.zeros((2, 1)))
    assert measure_absmax(seen, np.array([0.0, 4.0])).tolist() == [3, 4]
    assert measure_absmax(seen, np.array([2.0, 0.0])).tolist() == [4, 7]


def test_migration_starts_at_the_ratio_of_outlier_to_other_absmax():
    bias_scale = np.array([1.0, 0.8, 1.0, 0.9, 6.3], np.float32)
    seen = Extremes(-bias_scale[None], bias_scale[None], np.zeros((1, 1)))
    found = start_ratios(seen, InputQuantizer("static", 8, np.array([0.1], np.float32)))
    np.testing.assert_allclose(found, [1, 1, 1, 1, 6.3], rtol=1e-6)
    shifted = start_ratios(
        Extremes(seen.minimum + 5, seen.maximum + 5, seen.sample),
        InputQuantizer("static", 8, np.array([0.1], np.float32), np.full(5, 5.0, np.float32)),
    )
    np.testing.assert_allclose(shifted, found, rtol=1e-5)


def test_only_outlier_channels_are_divided_and_by_integers(widened, migrated):
    _, _, _, observed = widened
    m = np.array(migrated[FC2].migration)
    assert (m >= 1).all()
    np.testing.assert_array_equal(m, np.rint(m))
    assert (m > 1).any()
    outliers = find_outliers(observed[FC2].minimum, observed[FC2].maximum)
    assert set(np.flatnonzero(m > 1)) <= set(np.flatnonzero(outliers))
    assert set(WIDE) <= set(np.flatnonzero(m > 1))


def test_the_step_size_is_chosen_after_the_division(widened, migrated):
    """The order is z, then m, then the step of (x - z) / m."""
    _, _, quantizers, observed = widened
    shift, m = np.array(migrated[FC2].shift), np.array(migrated[FC2].migration)
    np.testing.assert_array_equal(shift, np.array(quantizers[FC2].shift))
    left = [np.abs((part - shift) / m).max() for part in (observed[FC2].minimum, observed[FC2].maximum)]
    assert migrated[FC2].steps.item() == pytest.approx(max(left) / 127, rel=1e-5)
    assert migrated[FC2].steps.item() < measure_absmax(observed[FC2], shift).max() / 127


def test_a_seed_gives_equal_results(widened, migrated):
    block, activations, quantizers, observed = widened
    again = migrate(block, quantizers, observed, activations, replace(SETTINGS, **WARM_UP))
    np.testing.assert_array_equal(np.array(again[FC2].migration), np.array(migrated[FC2].migration))
    np.testing.assert_array_equal(np.array(again[FC2].steps), np.array(migrated[FC2].steps))


def test_the_integers_are_learned(widened, migrated):
    block, activations, quantizers, observed = widened
    faster = migrate(block, quantizers, observed, activations, replace(SETTINGS, **WARM_UP | {"adaround_rate": 0.1}))
    assert (np.array(faster[FC2].migration) != np.array(migrated[FC2].migration)).any()


def test_without_a_rule_nothing_is_migrated(widened):
    block, activations, quantizers, observed = widened
    without = {name: rule | {"migration": False} if rule["bits"] < 16 else rule for name, rule in activations.items()}
    found = migrate(block, quantizers, observed, without, replace(SETTINGS, **WARM_UP))
    assert all(found[key] is quantizers[key] for key in quantizers)
    found = migrate(block, quantizers, observed, activations, replace(SETTINGS, **WARM_UP))
    assert {key for key in quantizers if found[key].migration is not None} <= {FC2, "mm_01.text.mlp.fc2"}


def test_without_outliers_nothing_is_migrated(widened):
    block, activations, quantizers, observed = widened
    even = {
        key: Extremes(np.full_like(s.minimum, -1), np.full_like(s.maximum, 1), s.sample) for key, s in observed.items()
    }
    found = migrate(block, quantizers, even, activations, replace(SETTINGS, **WARM_UP))
    assert all(quantizer.migration is None for quantizer in found.values())


def test_the_weight_is_multiplied_by_the_divisors_of_the_input(problem, migrated):
    block, _, _ = problem
    moved = migrate_weights(block.weights, block.readers, migrated)
    np.testing.assert_array_equal(
        np.array(moved[FC2]), np.array(block.weights[FC2]) * np.array(migrated[FC2].migration)[None]
    )
    assert all(moved[name] is weight for name, weight in block.weights.items() if not name.endswith(".fc2"))


def test_with_infinite_bits_the_block_is_unchanged(problem, migrated):
    """W' ((x - z) / m + z / m) + b = W x + b, in a layer and in the block's outputs."""
    block, _, _ = problem
    moved = replace(block, weights=migrate_weights(block.weights, block.readers, migrated))
    rows = take_rows(block.rows, block.held_out)
    exact = run_rows(block, block.weights, quantize_nothing, rows)
    for quantize in (leave_unrounded(migrated), bind_to_rows(make_fine(migrated))(rows)):
        found = run_rows(moved, moved.weights, quantize, rows)
        for name, output in exact.items():
            np.testing.assert_allclose(np.array(found[name]), np.array(output), atol=2e-4)


def make_fine(quantizers):
    """The same with steps that hardly matter, reaching four times as far."""
    return {key: replace(part, steps=part.steps / 2**13, bits=23) for key, part in quantizers.items()}


def test_the_folded_bias_is_exact(problem, migrated):
    """W' Q((x - z) / m) + (b + W' z / m), as inference has it, is W' (Q((x - z) / m) + z / m) + b, as learning does."""
    block, _, _ = problem
    quantizer = migrated[FC2]
    rng = np.random.default_rng(0)
    x = mx.array(rng.standard_normal((2, 7, 512)).astype(np.float32))
    weight = np.array(migrate_weights(block.weights, block.readers, migrated)[FC2]).astype(np.float64)
    z, m, step = (np.array(part).astype(np.float64) for part in (quantizer.shift, quantizer.migration, quantizer.steps))
    bias = np.array(block.biases[FC2]).astype(np.float64)
    seen = np.array(quantizer.bind_rows(mx.zeros(2, mx.int32))(x)).astype(np.float64)
    codes = np.clip(np.rint((np.array(x) - z) / m / step), -127, 127)
    folded = (codes * step) @ weight.T + (bias + weight @ (z / m))
    ties = np.abs(((np.array(x) - z) / m / step) % 1 - 0.5).min()
    assert ties > 1e-6
    np.testing.assert_allclose(seen @ weight.T + bias, folded, atol=1e-4)


@pytest.fixture(scope="module")
def wide(problem):
    """The block with channels of what fc2 reads made wide for real: fc1's rows grown, which GELU passes on."""
    block, _, rules = problem
    fc1 = "mm_01.image.mlp.fc1"
    grown, shrunk = np.ones((512, 1), np.float32), np.ones((1, 512), np.float32)
    grown[WIDE], shrunk[:, WIDE] = 25, 0.04
    weights = block.weights | {fc1: block.weights[fc1] * mx.array(grown), FC2: block.weights[FC2] * mx.array(shrunk)}
    outputs = run_rows(block, weights, quantize_nothing, take_rows(block.rows, np.arange(60)))
    image, text = (np.array(outputs[name]).astype(np.float16) for name in ("image", "text"))
    return replace(block, weights=weights, rows=block.rows._replace(image_target=image, text_target=text)), rules


def migrate_one(block, rules, **changes):
    """fc2's quantizer before and after, all quantizers before and after, and what they were chosen from."""
    rules = rules | {FC2: rules[FC2] | {"activation": rules[FC2]["activation"] | changes}}
    _, quantizers, observed = set_up(block, rules)
    activations = {name: rule["activation"] for name, rule in rules.items()}
    return quantizers, migrate(block, quantizers, observed, activations, replace(SETTINGS, **WARM_UP)), observed


def test_migration_helps_where_few_channels_are_wide(wide):
    block, rules = wide
    quantizers, found, _ = migrate_one(block, rules, bits=4)
    assert (np.array(found[FC2].migration)[WIDE] > 1).all()
    before = measure_errors(block, block.weights, bind_to_rows(quantizers), block.held_out)
    moved = migrate_weights(block.weights, block.readers, found)
    after = measure_errors(block, moved, bind_to_rows(found), block.held_out)
    assert after["image"] < 0.5 * before["image"]


@pytest.mark.parametrize("policy", ["static", "lut"])
@pytest.mark.parametrize("range_name", ["absmax", "p999"])
def test_without_a_shift_the_step_size_is_chosen_after_the_division(wide, policy, range_name):
    quantizers, found, observed = migrate_one(*wide, shift=False, range=range_name, policy=policy)
    m = np.array(found[FC2].migration)
    assert (m[WIDE] > 1).all()
    left = max(np.abs(part / m).max() for part in observed[FC2][:2])
    assert found[FC2].shift is None
    assert np.array(found[FC2].steps).max() * 127 == pytest.approx(left, rel=1e-5)
    assert found[FC2].steps.shape == quantizers[FC2].steps.shape
