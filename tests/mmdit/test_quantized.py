"""Quantized linears: their formula, the exact fold of shift and migration, and shared quantizers."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.mmdit.quantized import PRODUCTS, PackedWeight, QuantizedLinears, multiply_dense, multiply_packed
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.planning.layers import Layer, list_linears

SIGMAS = np.array([1.0, 0.5, 0.1])
STEPS = np.array([0.08, 0.04, 0.02], np.float32)
TIERS = (8, 4, 6)
WIDTH, OUT = 128, 24
Q, K, V, FC2 = (
    Layer(f"mm_00.image.{suffix}", suffix, "mm_00", "image", role, read)
    for suffix, role, read in (
        ("attn.q_proj", "qkv", "mm_00.image.attn.qkv"),
        ("attn.k_proj", "qkv", "mm_00.image.attn.qkv"),
        ("attn.v_proj", "qkv", "mm_00.image.attn.qkv"),
        ("mlp.fc2", "fc2", "mm_00.image.mlp.fc2"),
    )
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x(rng):
    """A one-sided input like that after a GELU, with two wide channels."""
    x = rng.standard_normal((2, 5, WIDTH)).astype(np.float32) + 1
    x[..., :2] *= 8
    return x


@pytest.fixture
def weight(rng):
    return rng.standard_normal((OUT, WIDTH)).astype(np.float32)


@pytest.fixture
def bias(rng):
    return rng.standard_normal(OUT).astype(np.float32)


@pytest.fixture
def shift(x):
    return (x.reshape(-1, WIDTH).max(axis=0) + x.reshape(-1, WIDTH).min(axis=0)) / 2


@pytest.fixture
def migration():
    return np.array([8, 7] + [1] * (WIDTH - 2), np.int32)


def bind_one(weight, bias, grid, lookup="nearest"):
    """The one layer fc2."""
    weight, bias = (None if array is None else mx.array(array) for array in (weight, bias))
    return QuantizedLinears([FC2], {FC2.name: weight}, {FC2.name: bias}, {FC2.name: grid}, SIGMAS, lookup)


def compute_unfolded(x, weight, bias, step, bits, shift=0.0, migration=1):
    """W' (Q((x - z) / m) + z / m) + b in float64, the shift added again before the product."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    largest = 2 ** (bits - 1) - 1
    codes = np.clip(np.rint((x - shift) / migration / step), -largest, largest)
    return (codes * step + shift / migration) @ weight.T + bias


def compute(linears, sigma, x, name=FC2.name):
    return np.array(linears.at(sigma)(name, mx.array(x)))


def assert_near(found, expected, tolerance=2e-6):
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


class TestOneLayer:
    def test_a_table_gives_each_noise_level_its_step_size(self, x, weight, bias):
        linears = bind_one(weight, bias, InputQuantizer("lut", 8, STEPS))
        for sigma, step in ((1.0, 0.08), (0.6, 0.04), (0.0, 0.02)):
            assert_near(compute(linears, sigma, x), compute_unfolded(x, weight, bias, np.float32(step), 8))

    def test_step_sizes_can_be_interpolated_between_noise_levels(self, x, weight, bias):
        linears = bind_one(weight, bias, InputQuantizer("lut", 8, STEPS), "interpolated")
        assert_near(compute(linears, 0.75, x), compute_unfolded(x, weight, bias, 0.06, 8), 1e-4)

    def test_bits_can_differ_between_the_noise_levels(self, x, weight, bias, shift, migration):
        linears = bind_one(weight, bias, InputQuantizer("lut", TIERS, STEPS, shift, migration))
        for sigma, place in ((1.0, 0), (0.76, 0), (0.74, 1), (0.31, 1), (0.29, 2), (0.0, 2)):
            expected = compute_unfolded(x, weight, bias, STEPS[place], TIERS[place], shift, migration)
            assert_near(compute(linears, sigma, x), expected)

    def test_ranges_are_interpolated_between_noise_levels_with_different_bits(self, x, weight, bias):
        linears = bind_one(weight, bias, InputQuantizer("lut", TIERS, STEPS), "interpolated")
        ranges = [step * (2 ** (bits - 1) - 1) for step, bits in zip(STEPS, TIERS, strict=True)]
        for sigma, place, share in ((0.8, 0, 0.6), (0.6, 1, 0.2), (0.2, 2, 0.25)):
            left = 0 if sigma > 0.5 else 1
            reach = ranges[left] * share + ranges[left + 1] * (1 - share)
            step = reach / (2 ** (TIERS[place] - 1) - 1)
            assert_near(compute(linears, sigma, x), compute_unfolded(x, weight, bias, step, TIERS[place]), 1e-4)

    @pytest.mark.parametrize("lookup", ["nearest", "interpolated"])
    def test_equal_bits_at_all_noise_levels_are_like_one_number_of_bits(self, x, weight, bias, shift, lookup):
        one, many = (
            bind_one(weight, bias, InputQuantizer("lut", bits, STEPS, shift), lookup) for bits in (8, (8, 8, 8))
        )
        for sigma in (1.0, 0.83, 0.3, 0.0):
            np.testing.assert_array_equal(compute(one, sigma, x), compute(many, sigma, x))

    def test_a_static_step_size_applies_at_all_noise_levels(self, x, weight, bias):
        linears = bind_one(weight, bias, InputQuantizer("static", 6, STEPS[:1]))
        for sigma in (1.0, 0.1):
            assert_near(compute(linears, sigma, x), compute_unfolded(x, weight, bias, STEPS[0], 6))

    def test_a_dynamic_step_size_is_per_token(self, x, weight, bias):
        step = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
        assert_near(
            compute(bind_one(weight, bias, InputQuantizer("dynamic", 8)), 0.3, x),
            compute_unfolded(x, weight, bias, step, 8),
        )

    def test_folding_shift_and_migration_changes_nothing(self, x, weight, bias, shift, migration):
        linears = bind_one(weight, bias, InputQuantizer("lut", 8, STEPS, shift, migration))
        expected = compute_unfolded(x, weight, bias, STEPS[1], 8, shift, migration)
        assert_near(compute(linears, 0.5, x), expected)

    @pytest.mark.parametrize("grid_bias", ["given", "none"])
    def test_with_infinite_bits_the_layer_is_unchanged(self, x, weight, bias, shift, migration, grid_bias):
        bias = bias if grid_bias == "given" else None
        expected = x @ weight.T + (0 if bias is None else bias)
        migrated = weight * migration  # W' = W diag(m)
        unrounded = bind_one(migrated, bias, InputQuantizer("none", 16, None, shift, migration))
        assert_near(compute(unrounded, 0.5, x), expected, 5e-6)
        fine = bind_one(migrated, bias, InputQuantizer("static", 22, np.array([1e-5], np.float32), shift, migration))
        assert_near(compute(fine, 0.5, x), expected, 1e-5)

    def test_the_shift_creates_a_bias_where_there_is_none(self, x, weight, shift):
        linears = bind_one(weight, None, InputQuantizer("static", 8, STEPS[:1], shift))
        assert_near(np.array(linears.biases[FC2.name]), weight @ shift)
        assert_near(compute(linears, 0.5, x), compute_unfolded(x, weight, 0, STEPS[0], 8, shift))
        assert bind_one(weight, None, InputQuantizer("static", 8, STEPS[:1])).biases[FC2.name] is None

    def test_an_unquantized_input_is_divided_by_the_migration_only(self, x, weight, bias, migration):
        linears = bind_one(weight, bias, InputQuantizer("none", 16, migration=migration))
        assert_near(compute(linears, 0.5, x), (x / migration) @ weight.T + bias)

    def test_a_table_of_another_length_is_rejected(self, weight, bias):
        with pytest.raises(ValueError, match=r"mm_00\.image\.mlp\.fc2 has 2 steps for 3 noise levels"):
            bind_one(weight, bias, InputQuantizer("lut", 8, STEPS[:2]))

    @pytest.mark.parametrize(
        ("policy", "bits", "steps"), [("lut", TIERS[:2], STEPS), ("static", TIERS, STEPS[:1]), ("dynamic", TIERS, None)]
    )
    def test_a_table_of_bits_without_step_sizes_is_rejected(self, weight, bias, policy, bits, steps):
        with pytest.raises(ValueError, match=rf"mm_00\.image\.mlp\.fc2 has {len(bits)} bit widths"):
            bind_one(weight, bias, InputQuantizer(policy, bits, steps))


class TestPackedWeights:
    @pytest.fixture(params=[(2, 32), (3, 64), (4, 32), (4, 64), (4, 128), (5, 64), (6, 64), (8, 128)])
    def packed(self, request, weight):
        bits, group_size = request.param
        codes, scales, biases = mx.quantize(mx.array(weight), group_size=group_size, bits=bits)
        return PackedWeight(codes, scales, biases, bits, group_size)

    def test_dense_and_packed_products_agree(self, packed, x):
        dense, from_codes = (np.array(multiply(packed)(mx.array(x))) for multiply in (multiply_dense, multiply_packed))
        assert_near(dense, from_codes)

    def test_a_layer_multiplies_with_the_dequantized_weight(self, packed, x, bias):
        linears = QuantizedLinears([FC2], {FC2.name: packed}, {FC2.name: mx.array(bias)}, {}, SIGMAS, "nearest")
        weight = np.array(mx.dequantize(*packed[:3], bits=packed.bits, group_size=packed.group_size))
        assert_near(compute(linears, 0.5, x), x @ weight.T + bias)

    def test_every_kind_of_device_has_a_product(self):
        assert set(PRODUCTS) == {mx.cpu, mx.gpu}


class TestOneForward:
    @pytest.fixture
    def attention(self, rng):
        """q and k read alike; v has a grid of its own."""
        grids = [InputQuantizer("lut", 8, array) for array in (STEPS, STEPS.copy(), 2 * STEPS)]
        names = [layer.name for layer in (Q, K, V)]
        weights = {name: mx.array(rng.standard_normal((OUT, WIDTH)).astype(np.float32)) for name in names}
        inputs = dict(zip(names, grids, strict=True))
        return QuantizedLinears([Q, K, V], weights, dict.fromkeys(names), inputs, SIGMAS, "nearest"), weights

    def test_layers_that_read_alike_have_one_quantizer(self, attention):
        quantizers = attention[0].quantizers
        assert quantizers[Q.name] is quantizers[K.name] is not quantizers[V.name]

    def test_layers_with_the_same_bits_at_every_noise_level_have_one_quantizer(self, rng):
        grids = [InputQuantizer("lut", bits, STEPS.copy()) for bits in (TIERS, tuple(TIERS), TIERS[::-1])]
        names = [layer.name for layer in (Q, K, V)]
        weights = {name: mx.array(rng.standard_normal((OUT, WIDTH)).astype(np.float32)) for name in names}
        inputs = dict(zip(names, grids, strict=True))
        quantizers = QuantizedLinears([Q, K, V], weights, dict.fromkeys(names), inputs, SIGMAS, "nearest").quantizers
        assert quantizers[Q.name] is quantizers[K.name] is not quantizers[V.name]

    def test_a_quantized_input_is_not_reused_for_another_input(self, attention, x):
        linears, weights = attention
        linear, inputs = linears.at(1.0), [mx.array(x), mx.array(x + 1), mx.array(x)]
        calls = [(Q, 0), (K, 0), (V, 0), (K, 1), (K, 0), (V, 2), (Q, 1), (Q, 1)]
        for layer, place in calls:
            step = 0.08 * (2 if layer is V else 1)
            expected = compute_unfolded(np.array(inputs[place]), np.array(weights[layer.name]), 0, np.float32(step), 8)
            assert_near(np.array(linear(layer.name, inputs[place])), expected)

    def test_noise_levels_are_quantized_separately(self, attention, x):
        linears, x = attention[0], mx.array(x)
        first, second = linears.at(1.0), linears.at(0.1)
        before = np.array(first(Q.name, x))
        assert not np.array_equal(np.array(second(Q.name, x)), before)
        np.testing.assert_array_equal(np.array(first(Q.name, x)), before)

    def test_without_grids_the_forward_is_in_full_precision(self, transformer, conditions, latents):
        layers, exact = list_linears(5), bind_linears(transformer)
        weights, biases = collect_parameters(transformer, layers)
        same = QuantizedLinears(layers, weights, biases, {}, SIGMAS, "nearest").at(0.5)
        found, expected = (
            predict_velocity(transformer, linear, latents[:4], *conditions, mx.full(4, 500.0), mx.arange(4))
            for linear in (same, exact)
        )
        np.testing.assert_array_equal(np.array(found), np.array(expected))


def collect_parameters(transformer, layers):
    modules = dict(transformer.named_modules())
    return (
        {layer.name: modules[layer.path].weight for layer in layers},
        {layer.name: modules[layer.path].get("bias") for layer in layers},
    )
