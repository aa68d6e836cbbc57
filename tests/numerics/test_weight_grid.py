"""The weight grid follows its rule, and rounding uses the stored values."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics import weight_grid
from taqmlx.numerics.stored_types import round_values

ALL_BITS = [2, 3, 4, 5, 6, 7, 8]
KINDS = list(product([False, True], ["absmax", "search"]))


def make_rule(bits=4, group_size=64, symmetric=False, **other):
    return {"bits": bits, "group_size": group_size, "symmetric": symmetric, "range": "absmax"} | other


@pytest.fixture
def weight():
    return np.random.default_rng(0).standard_t(5, (16, 256)).astype(np.float32) * 0.05


def reconstruct(weight, rule):
    grid = weight_grid.choose_grid(weight, rule)
    return weight_grid.dequantize(weight_grid.round_to_grid(weight, grid), grid)


def choose_slowly(group, rule):
    """One group's scale and bias, for ranges as wide as its weights."""
    if rule["symmetric"]:
        scale = np.float16(max(abs(x) for x in group) / (2 ** (rule["bits"] - 1) - 1))
        return scale, np.float16(-(2 ** (rule["bits"] - 1)) * float(scale))
    return np.float16((max(group) - min(group)) / (2 ** rule["bits"] - 1)), np.float16(min(group))


def round_slowly(weight, grid):
    """The nearest level of each weight, by trying all."""
    best = np.empty(weight.shape, np.uint8)
    for i, j in np.ndindex(weight.shape):
        scale, bias = (float(part[i, j // grid.group_size]) for part in (grid.scales, grid.biases))
        best[i, j] = min(range(2**grid.bits), key=lambda code: abs(code * scale + bias - float(weight[i, j])))
    return best


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("group_size", [32, 64, 128, "row"])
@pytest.mark.parametrize(("symmetric", "span"), KINDS)
def test_packed_codes_dequantize_in_mlx_to_the_same_weight(weight, bits, group_size, symmetric, span):
    grid = weight_grid.choose_grid(weight, make_rule(bits, group_size, symmetric, range=span))
    codes = weight_grid.round_to_grid(weight, grid)
    packed = weight_grid.pack_codes(codes, bits)
    scales, biases = (mx.array(part).astype(mx.float32) for part in (grid.scales, grid.biases))
    stored = {"group_size": grid.group_size, "bits": weight_grid.stored_bits(bits)}
    by_mlx = np.array(mx.dequantize(mx.array(packed), scales, biases, **stored))
    np.testing.assert_allclose(by_mlx, weight_grid.dequantize(codes, grid), atol=1e-6 * np.abs(weight).max())
    np.testing.assert_array_equal(weight_grid.unpack_codes(packed, bits), codes)
    assert codes.max() < 2**bits


@pytest.mark.parametrize("bits", ALL_BITS)
def test_a_layer_of_mlx_computes_with_the_packed_codes(weight, bits):
    """`mx.dequantize` takes widths that `mx.quantized_matmul` reads wrongly."""
    grid = weight_grid.choose_grid(weight, make_rule(bits))
    codes = weight_grid.round_to_grid(weight, grid)
    parts = (mx.array(part).astype(mx.float32) for part in (grid.scales, grid.biases))
    packed = mx.array(weight_grid.pack_codes(codes, bits))
    x = np.random.default_rng(1).standard_normal((5, 256)).astype(np.float32)
    stored = {"group_size": 64, "bits": weight_grid.stored_bits(bits)}
    found = mx.quantized_matmul(mx.array(x), packed, *parts, transpose=True, **stored)
    np.testing.assert_allclose(np.array(found), x @ weight_grid.dequantize(codes, grid).T, atol=1e-4)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_are_those_of_the_weights(weight, bits, symmetric):
    rule = make_rule(bits, 64, symmetric)
    grid = weight_grid.choose_grid(mx.array(weight), rule)
    for i, j in np.ndindex(16, 4):
        scale, bias = choose_slowly(weight[i, j * 64 : (j + 1) * 64], rule)
        assert (grid.scales[i, j], grid.biases[i, j]) == (scale, bias)


def test_zero_is_a_level_of_a_symmetric_grid(weight):
    grid = weight_grid.choose_grid(weight, make_rule(4, 64, True))
    assert (weight_grid.dequantize(np.full(weight.shape, 8, np.uint8), grid) == 0).all()


@pytest.mark.parametrize(("symmetric", "span"), KINDS)
def test_codes_are_the_nearest_levels(weight, symmetric, span):
    grid = weight_grid.choose_grid(weight[:4], make_rule(4, 64, symmetric, range=span))
    found = weight_grid.dequantize(weight_grid.round_to_grid(weight[:4], grid), grid)
    plain = weight_grid.dequantize(round_slowly(weight[:4], grid), grid)
    np.testing.assert_allclose(np.abs(found - weight[:4]), np.abs(plain - weight[:4]), atol=1e-7)


def test_a_bfloat16_weight_has_the_grid_of_its_values(weight):
    rounded = mx.array(weight).astype(mx.bfloat16)
    found = weight_grid.choose_grid(rounded, make_rule())
    np.testing.assert_array_equal(found.scales, weight_grid.choose_grid(rounded.astype(mx.float32), make_rule()).scales)


class TestBfloat16:
    """Scales and biases of bf16 are chosen as such."""

    @pytest.mark.parametrize(("symmetric", "span"), KINDS)
    def test_packed_codes_dequantize_in_mlx_to_the_same_weight(self, weight, symmetric, span):
        grid = weight_grid.choose_grid(weight, make_rule(4, 64, symmetric, range=span, scale_dtype="bfloat16"))
        codes = weight_grid.round_to_grid(weight, grid)
        stored = [mx.array(part).astype(mx.bfloat16) for part in (grid.scales, grid.biases)]
        for part, kept in zip(stored, (grid.scales, grid.biases), strict=True):
            np.testing.assert_array_equal(np.array(part.astype(mx.float32)), kept)
        packed = mx.array(weight_grid.pack_codes(codes, 4))
        found = mx.dequantize(packed, *(part.astype(mx.float32) for part in stored), group_size=64, bits=4)
        np.testing.assert_allclose(np.array(found), weight_grid.dequantize(codes, grid), atol=1e-6)
        assert grid.scale_dtype == "bfloat16"

    @pytest.mark.parametrize("bits", ALL_BITS)
    def test_codes_of_its_own_grid_are_nearer_than_those_of_fp16_on_scales_that_are_cast(self, weight, bits):
        rule = make_rule(bits, range="search")
        own = weight_grid.choose_grid(weight, rule | {"scale_dtype": "bfloat16"})
        half = weight_grid.choose_grid(weight, rule)
        cast = half._replace(scales=round_values(half.scales.astype(np.float32), "bfloat16"))
        cast = cast._replace(biases=round_values(half.biases.astype(np.float32), "bfloat16"))
        chosen = weight_grid.dequantize(weight_grid.round_to_grid(weight, own), own)
        found = weight_grid.dequantize(weight_grid.round_to_grid(weight, half), cast)
        assert np.square(chosen - weight).sum() < np.square(found - weight).sum()

    def test_what_fp16_cannot_hold_has_a_grid(self, weight):
        weight[3, 7] = 7e4
        grid = weight_grid.choose_grid(weight, make_rule(scale_dtype="bfloat16"))
        assert np.isfinite(weight_grid.dequantize(weight_grid.round_to_grid(weight, grid), grid)).all()

    @pytest.mark.parametrize("value", [np.inf, np.nan])
    def test_non_finite_values_are_rejected(self, weight, value):
        weight[3, 7] = value
        with pytest.raises(ValueError, match="not finite, or beyond the range of bf16"):
            weight_grid.choose_grid(weight, make_rule(scale_dtype="bfloat16"))


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("group_size", [32, 128, "row"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_search_makes_no_group_worse(weight, bits, group_size, symmetric):
    by_group = {}
    for span in ("absmax", "search"):
        errors = reconstruct(weight, make_rule(bits, group_size, symmetric, range=span)) - weight
        by_group[span] = np.square(errors).reshape(-1, 256 if group_size == "row" else group_size).sum(axis=1)
    assert (by_group["search"] <= by_group["absmax"] * (1 + 1e-5)).all()


def test_the_search_finds_the_best_symmetric_range(weight):
    """The twin tries each factor of the widest range by itself."""
    group = weight[:1, :64]
    scale = np.abs(group).max() / 7
    errors = {}
    for factor in np.linspace(0.4, 1, 81):
        short = np.float16(np.float32(factor * scale)).astype(np.float64)
        errors[factor] = np.square(np.clip(np.rint(group / short), -8, 7) * short - group).sum()
    found = reconstruct(group, make_rule(4, 64, True, range="search"))
    assert np.square(found - group).sum() == pytest.approx(min(errors.values()), rel=1e-4)


def test_the_search_comes_close_to_the_best_asymmetric_range(weight):
    """The twin tries each pair of ends on a lattice; those that move alike are not enough."""
    groups = weight.reshape(-1, 64)
    low, full = groups.min(axis=1, keepdims=True), np.ptp(groups, axis=1, keepdims=True)
    moves = np.linspace(0, 0.3, 16)
    errors = np.empty((16, 16, len(groups)))
    for i, j in np.ndindex(16, 16):
        scales = (1 - moves[i] - moves[j]) * full / 15
        start = low + moves[i] * full
        levels = np.clip(np.rint((groups - start) / scales), 0, 15) * scales + start
        errors[i, j] = np.square(levels - groups).sum(axis=1)
    found = np.square(reconstruct(weight, make_rule(range="search")) - weight).sum()
    assert found < 1.02 * errors.min(axis=(0, 1)).sum()
    assert found < 0.95 * errors.diagonal().min(axis=1).sum()


def test_the_search_clips_an_outlier_at_either_end():
    weight = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    weight[0, 5], weight[1, 5] = -5, 5
    grid = weight_grid.choose_grid(weight, make_rule(3, range="search"))
    levels = grid.biases + grid.scales * 7
    assert grid.biases[0] > -4.8
    assert levels[1] < 4.8


def search_slowly(group, squares, rule):
    """The least weighted error of one group over all ends that the search may move to, one after the other."""
    low, high = float(group.min()), float(group.max())
    if rule["symmetric"]:
        high = max(-low, high)
        low = -high
    start, full = (low, high), np.float32(high - low)

    def measure(ends):
        (scale,), (bias,) = weight_grid.place_levels(*(np.float32([end]) for end in ends), rule)
        codes = [min(max(np.rint(np.float32((x - bias) / scale)), 0), 2 ** rule["bits"] - 1) for x in group]
        levels = [float(code) * float(scale) + float(bias) for code in codes]
        return sum(s * (level - float(x)) ** 2 for s, level, x in zip(squares, levels, group, strict=True))

    least, best = measure(start), start
    for moves in weight_grid._PASSES[rule["symmetric"]]:
        start = best
        for down, up in moves:
            ends = np.float32(start[0]) + np.float32(down) * full, np.float32(start[1]) - np.float32(up) * full
            if (error := measure(ends)) < least:
                least, best = error, ends
    return least


@pytest.fixture
def squares():
    """Mean squares of 256 inputs, a few of them large."""
    return np.exp(np.random.default_rng(3).normal(0, 2, 256))


@pytest.mark.parametrize("group_size", [64, "row"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_weighted_search_has_the_least_weighted_error_of_its_ranges(weight, squares, group_size, symmetric):
    rule = make_rule(3, group_size, symmetric, range="weighted")
    own, span = weight[:2], 256 if group_size == "row" else 64
    grid = weight_grid.choose_grid(own, rule, 10 * squares)  # a common factor has no influence
    found = weight_grid.dequantize(weight_grid.round_to_grid(own, grid), grid)
    errors = (squares * np.square(found - own)).reshape(-1, span).sum(axis=1)
    parts = np.tile(squares, 2).reshape(-1, span)
    wanted = [search_slowly(*pair, rule) for pair in zip(own.reshape(-1, span), parts, strict=True)]
    np.testing.assert_allclose(errors, wanted, rtol=1e-3)


def test_a_weighted_search_has_less_output_error_than_one_without_inputs(weight, squares):
    grids = [
        weight_grid.choose_grid(weight, make_rule(3, range="weighted"), squares),
        weight_grid.choose_grid(weight, make_rule(3, range="search")),
    ]
    inputs = np.random.default_rng(4).normal(size=(512, 256)) * np.sqrt(squares)
    errors = [
        np.square(inputs @ (weight_grid.dequantize(weight_grid.round_to_grid(weight, grid), grid) - weight).T).sum()
        for grid in grids
    ]
    assert errors[0] < 0.9 * errors[1]


def test_inputs_of_one_size_weigh_nothing(weight):
    grids = [
        weight_grid.choose_grid(weight, make_rule(range="weighted"), np.full(256, 7.0)),
        weight_grid.choose_grid(weight, make_rule(range="search")),
    ]
    np.testing.assert_array_equal(grids[0].scales, grids[1].scales)
    np.testing.assert_array_equal(grids[0].biases, grids[1].biases)


def test_inputs_that_are_always_zero_leave_the_full_range(weight):
    grid = weight_grid.choose_grid(weight, make_rule(range="weighted"), np.zeros(256))
    np.testing.assert_array_equal(grid.scales, weight_grid.choose_grid(weight, make_rule()).scales)


@pytest.mark.parametrize(("squares", "problem"), [(None, "needs the inputs"), (np.full(256, np.inf), "not finite")])
def test_a_weighted_search_without_finite_inputs_is_rejected(weight, squares, problem):
    with pytest.raises(ValueError, match=f"range: weighted.*{problem}"):
        weight_grid.choose_grid(weight, make_rule(range="weighted"), squares)


@pytest.mark.parametrize(("width", "size"), [(256, 128), (192, 64), (96, 32)])
def test_a_row_has_one_scale_stored_per_largest_possible_group(width, size):
    weight = np.random.default_rng(2).standard_normal((3, width)).astype(np.float32)
    grid = weight_grid.choose_grid(weight, make_rule(group_size="row"))
    assert grid.group_size == size
    assert grid.scales.shape == grid.biases.shape == (3, width // size)
    expected = [choose_slowly(row, make_rule()) for row in weight]
    for j in range(width // size):
        np.testing.assert_array_equal(np.stack([grid.scales[:, j], grid.biases[:, j]], axis=1), expected)


@pytest.mark.parametrize("value", [0, 0.25, -0.25, 1e-9])
@pytest.mark.parametrize(("symmetric", "span"), KINDS)
def test_constant_groups_are_represented(value, symmetric, span):
    weight = np.full((1, 64), value, np.float32)
    rule = make_rule(4, 64, symmetric, range=span)
    assert (weight_grid.choose_grid(weight, rule).scales > 0).all()
    np.testing.assert_allclose(reconstruct(weight, rule), weight, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("symmetric", "span"), KINDS)
def test_weights_below_the_normal_range_of_fp16_are_represented(weight, symmetric, span):
    tiny = weight * np.float32(1e-5)
    rule = make_rule(4, 64, symmetric, range=span)
    assert (weight_grid.choose_grid(tiny, rule).scales > 0).all()
    # the scales' own rounding, at most half of 2^-24 for each of 15 levels, and half a level
    assert np.abs(reconstruct(tiny, rule) - tiny).max() < 8 * 2**-24 + np.abs(tiny).max() / 7


@pytest.mark.parametrize("value", [7e4, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(("symmetric", "span"), KINDS)
def test_what_fp16_cannot_hold_is_rejected(weight, value, symmetric, span):
    weight[3, 7] = value
    with pytest.raises(ValueError, match="not finite, or beyond the range of fp16"):
        weight_grid.choose_grid(weight, make_rule(4, 64, symmetric, range=span))


def test_an_overflowing_bias_is_rejected_even_if_its_weights_fit():
    with pytest.raises(ValueError, match="beyond the range of fp16"):
        weight_grid.choose_grid(np.full((1, 64), 6e4), make_rule(2, 64, True))


@pytest.mark.parametrize(("width", "size"), [(96, 64), (48, "row")])
def test_a_width_that_does_not_divide_is_rejected(width, size):
    with pytest.raises(ValueError, match=f"{width} inputs are not a multiple of the group size"):
        weight_grid.choose_grid(np.zeros((2, width), np.float32), make_rule(group_size=size))
