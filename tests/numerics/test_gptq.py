"""GPTQ codes follow the equations of the paper, and their output error is below that of RTN."""

import numpy as np
import pytest

from taqmlx.numerics.gptq import accumulate_hessian, round_with_gptq
from taqmlx.numerics.weight_grid import choose_grid, dequantize, expand_groups, round_to_grid

DAMPING = 0.01


def make_rule(**other):
    return {"bits": 4, "group_size": 32, "symmetric": False, "range": "absmax"} | other


def draw(seed, out=8, width=64, rows=256):
    """A weight, its grid, and inputs of correlated channels of unequal size with their Hessian."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((out, width)).astype(np.float32)
    x = rng.standard_normal((rows, 8)) @ rng.standard_normal((8, width)) + 0.3 * rng.standard_normal((rows, width))
    x = (x * rng.uniform(0.1, 3, width)).astype(np.float32)
    return weight, choose_grid(weight, make_rule()), x, accumulate_hessian(np.zeros((width, width)), x)


def round_slowly(weight, grid, hessian, damping):
    """One column after the other by equations 2 and 3 of the paper, the largest diagonal first.

    A column that is fixed leaves the inverse Hessian by a step of Gaussian elimination.
    """
    weight = weight.astype(np.float64)
    hessian = hessian + damping * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    scales, biases = expand_groups(grid.scales, grid.group_size), expand_groups(grid.biases, grid.group_size)
    codes = np.zeros(weight.shape, np.uint8)
    left = list(np.argsort(-np.diag(hessian), kind="stable"))
    inverse = np.linalg.inv(hessian[np.ix_(left, left)])
    while left:
        row, j = inverse[0], left[0]
        codes[:, j] = np.clip(np.rint((weight[:, j] - biases[:, j]) / scales[:, j]), 0, 2**grid.bits - 1)
        error = weight[:, j] - (codes[:, j] * scales[:, j].astype(np.float64) + biases[:, j])
        weight[:, left] -= np.outer(error / row[0], row)
        inverse = (inverse - np.outer(inverse[:, 0], row) / row[0])[1:, 1:]
        left = left[1:]
    return codes


def measure_output_error(weight, codes, grid, x):
    return np.square(x.astype(np.float64) @ (dequantize(codes, grid) - weight).T).sum()


@pytest.mark.parametrize("width", [32, 96, 160, 288])
@pytest.mark.parametrize("bits", [2, 4])
def test_codes_follow_the_equations_of_the_paper(width, bits):
    weight, _, _, hessian = draw(0, out=3, width=width)
    grid = choose_grid(weight, make_rule(bits=bits))
    found = round_with_gptq(weight, grid, hessian, DAMPING)
    np.testing.assert_array_equal(found, round_slowly(weight, grid, hessian, DAMPING))
    assert found.dtype == np.uint8


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("bits", "symmetric", "span"), [(2, False, "search"), (3, True, "absmax"), (8, False, "absmax")]
)
def test_the_output_error_is_below_that_of_rtn(seed, bits, symmetric, span):
    weight, _, x, hessian = draw(seed)
    grid = choose_grid(weight, make_rule(bits=bits, symmetric=symmetric, range=span))
    codes = round_with_gptq(weight, grid, hessian, DAMPING)
    nearest = measure_output_error(weight, round_to_grid(weight, grid), grid, x)
    assert measure_output_error(weight, codes, grid, x) < 0.7 * nearest
    assert codes.max() < 2**bits


def test_with_uncorrelated_inputs_codes_are_those_of_rtn():
    weight, grid, *_ = draw(1)
    hessian = np.diag(np.random.default_rng(2).uniform(0.1, 9, 64))
    np.testing.assert_array_equal(round_with_gptq(weight, grid, hessian, DAMPING), round_to_grid(weight, grid))


def test_the_input_with_the_largest_energy_is_rounded_first_to_the_nearest_level():
    weight, grid, _, hessian = draw(3)
    largest = np.argmax(np.diag(hessian))
    codes, nearest = round_with_gptq(weight, grid, hessian, DAMPING), round_to_grid(weight, grid)
    np.testing.assert_array_equal(codes[:, largest], nearest[:, largest])
    assert (codes != nearest).any()


def test_inputs_that_are_always_zero_use_rtn_and_change_no_other_code():
    weight, _, x, _ = draw(4)
    grid = choose_grid(weight, make_rule(group_size="row"))
    x[:, 32:] = 0
    hessian = accumulate_hessian(np.zeros((64, 64)), x)
    nearest = round_to_grid(weight, grid)
    codes = round_with_gptq(weight, grid, hessian, 0)
    np.testing.assert_array_equal(codes[:, 32:], nearest[:, 32:])
    half = grid._replace(scales=grid.scales[:, :1], biases=grid.biases[:, :1], group_size=32)
    np.testing.assert_array_equal(codes[:, :32], round_with_gptq(weight[:, :32], half, hessian[:32, :32], 0))
    np.testing.assert_array_equal(round_with_gptq(weight, grid, np.zeros((64, 64)), DAMPING), nearest)


def test_the_scale_of_the_hessian_has_no_influence():
    weight, grid, _, hessian = draw(5)
    found = round_with_gptq(weight, grid, hessian * 2.0**-20, DAMPING)
    np.testing.assert_array_equal(found, round_with_gptq(weight, grid, hessian, DAMPING))


def test_the_arguments_are_not_changed():
    weight, grid, _, hessian = draw(6)
    before = weight.copy(), hessian.copy()
    round_with_gptq(weight, grid, hessian, DAMPING)
    np.testing.assert_array_equal(weight, before[0])
    np.testing.assert_array_equal(hessian, before[1])


def test_a_hessian_is_the_sum_over_all_rows():
    _, _, x, hessian = draw(7)
    slow = sum(2 * np.outer(row, row) for row in x.astype(np.float64))
    np.testing.assert_allclose(hessian, slow, rtol=1e-4, atol=1e-6 * np.abs(slow).max())
    in_parts = accumulate_hessian(accumulate_hessian(np.zeros((64, 64)), x[:100]), x[100:])
    np.testing.assert_allclose(in_parts, slow, rtol=1e-4, atol=1e-6 * np.abs(slow).max())


def test_a_singular_hessian_is_rejected():
    weight, grid, _, hessian = draw(8)
    hessian[3, 5] = hessian[5, 3] = 10 * np.diag(hessian).max()
    with pytest.raises(ValueError, match=r"not positive definite with a damping of 0\.01; raise the damping"):
        round_with_gptq(weight, grid, hessian, DAMPING)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_non_finite_inputs_are_rejected(broken):
    weight, grid, x, hessian = draw(8)
    x[17, 3] = broken
    with np.errstate(invalid="ignore"):
        hessian = accumulate_hessian(hessian, x)
    with pytest.raises(ValueError, match="the Hessian is not finite"):
        round_with_gptq(weight, grid, hessian, DAMPING)
