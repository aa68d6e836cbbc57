"""Grids that are measured from each token or group of channels follow its range, and clip nothing."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.token_rounding import compute_token_step, round_tokens

X = np.random.default_rng(4).standard_normal((2, 3, 64)).astype(np.float32) * np.geomspace(1, 100, 64, dtype=np.float32)


def test_each_token_has_its_own_step_size():
    found = np.array(compute_token_step(mx.array(X), 8))
    plain = np.array([[max(abs(v) for v in token) / 127 for token in row] for row in X])
    np.testing.assert_allclose(found[..., 0], plain, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 8, 32, 64])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_step_size_of_each_group_follows_its_absmax(size, bits):
    found = np.array(compute_token_step(mx.array(X), bits, size))
    assert found.shape == X.shape
    for b, t, channel in np.ndindex(X.shape):
        start = channel // size * size
        largest = np.abs(X[b, t, start : start + size]).max()
        assert found[b, t, channel] == pytest.approx(largest / (2 ** (bits - 1) - 1), rel=1e-6)


def test_a_group_of_all_channels_is_like_per_token():
    token = compute_token_step(mx.array(X), 8)
    assert token.shape == (2, 3, 1)
    np.testing.assert_array_equal(np.array(compute_token_step(mx.array(X), 8, 64)), np.repeat(token, 64, -1))


@pytest.mark.parametrize("size", [5, 48, 128])
def test_a_width_that_the_group_size_does_not_divide_is_rejected(size):
    with pytest.raises(ValueError, match=f"64 channels are not a multiple of the group size {size}"):
        compute_token_step(mx.array(X), 8, size)


def test_groups_of_zeros_can_be_divided_by():
    step = np.array(compute_token_step(mx.zeros((1, 1, 64)), 8, 32))
    assert (step > 0).all()


def test_groups_have_a_smaller_error_than_one_step_size_per_token():
    """Where channels differ in size, as these do."""
    errors = {}
    for size in ("token", 32, 8):
        step = np.array(compute_token_step(mx.array(X), 8, size), np.float64)
        relative = (np.rint(X / step) * step - X) / np.abs(X).mean(axis=(0, 1))
        errors[size] = np.square(relative).mean()
    assert errors[8] < errors[32] < errors["token"]


@pytest.mark.parametrize("is_centred", [False, True])
@pytest.mark.parametrize("size", ["token", 8, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_values_are_the_nearest_codes_of_their_grid(is_centred, size, bits):
    found = np.array(round_tokens(mx.array(X), bits, size, is_centred)).reshape(-1, 64 if size == "token" else size)
    for group, rounded in zip(X.reshape(found.shape).astype(np.float64), found, strict=True):
        centre = (group.min() + group.max()) / 2 if is_centred else 0.0
        step = np.abs(group - centre).max() / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(rounded, np.rint((group - centre) / step) * step + centre, atol=1e-4 * step)


def test_a_centred_group_uses_every_code_where_values_have_one_sign():
    """Values after GELU or SiLU are nearly all positive: half the codes of a symmetric grid are never used."""
    x = mx.array(np.random.default_rng(3).uniform(2, 3, (5, 64)).astype(np.float32))
    error = mx.abs(round_tokens(x, 8, 32, True) - x).max().item()
    assert error < 0.51 / 254 < 3 / 254 / 2


def test_equal_values_are_kept():
    for value in (0.0, 0.7):
        x = mx.full((2, 64), value)
        assert mx.allclose(round_tokens(x, 8, 32, True), x, rtol=1e-6, atol=0)


def test_the_gradient_passes_through():
    weight = mx.random.normal(X.shape, key=mx.random.key(0))
    slope = mx.grad(lambda x: (round_tokens(x, 4, 32, True) * weight).sum())(mx.array(X))
    assert mx.array_equal(slope, weight)


def test_the_dtype_is_kept_and_the_grid_is_fp32():
    x = mx.array(X).astype(mx.float16)
    found = round_tokens(x, 8, 32, True)
    assert found.dtype == mx.float16
    assert mx.array_equal(found, round_tokens(x.astype(mx.float32), 8, 32, True).astype(mx.float16))


def test_groups_that_do_not_fit_are_rejected():
    with pytest.raises(ValueError, match="48 channels are not a multiple of the group size 32"):
        round_tokens(mx.zeros((2, 48)), 8, 32, True)
