"""A quantizer of a layer input: learning and inference round alike, and what is stored is what the policy needs."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.input_quantizer import (
    POLICIES,
    InputQuantizer,
    create_quantizer,
    has_steps,
    store_steps,
)
from taqmlx.numerics.token_rounding import compute_token_step

STEPS, WIDTH = np.array([0.3, 0.11, 0.05], np.float32), 16
SHIFT = np.linspace(-1, 2, WIDTH).astype(np.float32)
MIGRATION = np.array([5, 3] + [1] * (WIDTH - 2), np.int32)
QUANTIZERS = {
    "none": InputQuantizer(),
    "dynamic": InputQuantizer("dynamic", 6),
    "groups": InputQuantizer("dynamic", 4, group_size=8),
    "affine": InputQuantizer("affine", 6),
    "affine_groups": InputQuantizer("affine", 4, group_size=8),
    "static": InputQuantizer("static", 5, STEPS[:1]),
    "lut": InputQuantizer("lut", 6, STEPS),
    "shifted": InputQuantizer("lut", 6, STEPS, SHIFT),
    "migrated": InputQuantizer("static", 6, STEPS[:1], SHIFT, MIGRATION),
    "divided": InputQuantizer("lut", 6, STEPS, None, MIGRATION),
}


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((3, 4, WIDTH)).astype(np.float32)


def quantize_slowly(quantizer, x, index):
    """Q((x - z) / m) in float64."""
    z, m = (fill if part is None else part for part, fill in ((quantizer.shift, 0.0), (quantizer.migration, 1)))
    x = (x.astype(np.float64) - z) / m
    if quantizer.policy == "none":
        return x
    if quantizer.policy == "affine":
        groups = x.reshape(-1, x.shape[-1] if quantizer.group_size == "token" else quantizer.group_size)
        low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
        step = (high - low) / (2**quantizer.bits - 2)
        return (np.rint((groups - (low + high) / 2) / step) * step + (low + high) / 2).reshape(x.shape)
    step = {
        "dynamic": lambda: np.array(compute_token_step(mx.array(x), quantizer.bits, quantizer.group_size)),
        "static": lambda: quantizer.steps[0],
        "lut": lambda: quantizer.steps[index],
    }[quantizer.policy]()
    largest = 2 ** (quantizer.bits - 1) - 1
    return np.clip(np.rint(x / step), -largest, largest) * step


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("index", [0, 2])
def test_learning_and_inference_are_the_formula(x, name, index):
    """Learning adds z / m again, which inference has in the bias."""
    quantizer = QUANTIZERS[name]
    expected = quantize_slowly(quantizer, x, index)
    inference = quantizer.bind(np.eye(3)[index])(mx.array(x))
    learning = quantizer.bind_rows(mx.full(3, index, mx.int32))(mx.array(x))
    shift = quantizer.scale_shift()
    np.testing.assert_allclose(np.array(inference), expected, atol=2e-6)
    np.testing.assert_allclose(np.array(learning), expected + (0 if shift is None else np.array(shift)), atol=2e-6)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_dividing_is_all_that_is_left_of_it_without_rounding(x, name):
    m = 1 if QUANTIZERS[name].migration is None else QUANTIZERS[name].migration
    np.testing.assert_allclose(np.array(QUANTIZERS[name].divide(mx.array(x))), x / m, rtol=1e-6)


def test_rows_have_the_steps_of_their_noise_levels(x):
    sigma_index = [2, 0, 1]
    found = QUANTIZERS["shifted"].bind_rows(mx.array(sigma_index))(mx.array(x))
    for row, index in enumerate(sigma_index):
        expected = quantize_slowly(QUANTIZERS["shifted"], x[row], index) + SHIFT
        np.testing.assert_allclose(np.array(found[row]), expected, atol=2e-6)


@pytest.mark.parametrize("name", ["static", "shifted"])
def test_learned_steps_are_used_in_place_of_the_stored_ones(x, name):
    quantizer, sigma_index = QUANTIZERS[name], mx.array([0, 1, 1])
    moved = replace(quantizer, steps=2 * quantizer.steps)
    found = quantizer.bind_rows(sigma_index, mx.array(moved.steps))(mx.array(x))
    np.testing.assert_array_equal(np.array(found), np.array(moved.bind_rows(sigma_index)(mx.array(x))))
    slope = mx.grad(lambda steps: quantizer.bind_rows(sigma_index, steps)(mx.array(x)).sum())(mx.array(moved.steps))
    used = {"static": [True], "shifted": [True, True, False]}[name]
    assert (np.array(slope) != 0).tolist() == used


def test_bits_can_differ_by_noise_level_in_inference_only(x):
    quantizer = InputQuantizer("lut", (8, 4, 6), STEPS)
    for index, bits in enumerate(quantizer.bits):
        found = quantizer.bind(np.eye(3)[index])(mx.array(x))
        expected = quantize_slowly(replace(quantizer, bits=bits), x, index)
        np.testing.assert_allclose(np.array(found), expected, atol=2e-6)
    with pytest.raises(ValueError, match="the policy lut needs one bit width, not 3"):
        quantizer.bind_rows(mx.array([0, 1, 2]))(mx.array(x))


def test_equal_quantizers_have_one_identity():
    copies = [replace(quantizer, bits=quantizer.bits) for quantizer in QUANTIZERS.values()]
    assert [copy.identity for copy in copies] == [quantizer.identity for quantizer in QUANTIZERS.values()]
    assert len({quantizer.identity for quantizer in QUANTIZERS.values()}) == len(QUANTIZERS)


def test_a_migration_of_ones_is_none():
    assert QUANTIZERS["migrated"].is_migrated
    assert not QUANTIZERS["shifted"].is_migrated
    assert not replace(QUANTIZERS["migrated"], migration=np.ones(WIDTH, np.int32)).is_migrated


class TestRules:
    def test_a_rule_decides_which_arrays_are_needed(self):
        arrays = (STEPS, SHIFT, MIGRATION)
        table = create_quantizer({"bits": 8, "policy": "lut", "group_size": 32}, *arrays)
        assert table.identity == InputQuantizer("lut", 8, *arrays).identity
        dynamic = create_quantizer({"bits": 8, "policy": "dynamic", "group_size": 32})
        assert dynamic.identity == InputQuantizer("dynamic", 8, group_size=32).identity
        assert create_quantizer({"bits": 16}).identity == InputQuantizer("none", 16).identity

    def test_missing_step_sizes_are_rejected(self):
        for policy in ("static", "lut"):
            with pytest.raises(ValueError, match=f"the policy {policy} needs step sizes"):
                create_quantizer({"bits": 8, "policy": policy})

    def test_unquantized_inputs_have_no_steps_under_any_policy(self):
        assert [has_steps({"bits": 8, "policy": policy}) for policy in ("static", "lut", "dynamic", "affine")] == [
            True,
            True,
            False,
            False,
        ]
        assert not any(has_steps({"bits": 16, "policy": policy}) for policy in POLICIES)

    def test_a_static_policy_stores_the_largest_step(self):
        assert store_steps(STEPS, "static").tolist() == [STEPS.max()]
        assert store_steps(STEPS, "lut") is STEPS
