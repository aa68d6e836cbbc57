"""A block's outputs are those of the model, its errors are relative, and shared inputs are quantized once."""

from collections import Counter
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.reconstruction import block_problem
from taqmlx.reconstruction.block_problem import (
    compute_loss,
    find_nonfinite_layer,
    list_batches,
    measure_errors,
    measure_powers,
    run_rows,
    take_rows,
)
from tests.support.blocks import quantize_nothing

BLOCKS = ["mm_01", "mm_04"]


@pytest.fixture(scope="module", params=BLOCKS)
def problem(request, captured):
    """A block in the middle, and the last one, which has no text output."""
    return captured.pose(request.param)[0]


def spoil(problem, name):
    """The problem with one NaN in a weight."""
    weight = np.array(problem.weights[name])
    weight[3, 5] = np.nan
    return problem.weights | {name: mx.array(weight)}


def test_the_noise_levels_are_varied(problem):
    for indices in (problem.training, problem.held_out):
        assert set(problem.rows.sigma_index[indices]) == set(range(5))


def test_without_quantization_the_outputs_are_the_captured_targets(problem):
    errors = measure_errors(problem, problem.weights, lambda rows: quantize_nothing, np.arange(60))
    assert list(errors) == (["image", "text"] if problem.block.text_reaches_output else ["image"])
    assert max(errors.values()) < 1e-6  # the targets are stored as fp16


def test_rows_are_converted_to_fp32(problem):
    rows = take_rows(problem.rows, np.array([7, 2]))
    assert {part.dtype for part in (rows.image, rows.text, *rows.modulations.values())} == {mx.float32}
    np.testing.assert_array_equal(np.array(rows.image), problem.rows.image[[7, 2]])
    assert rows.sigma_index.tolist() == problem.rows.sigma_index[[7, 2]].tolist()
    assert (rows.text_target is None) == (not problem.block.text_reaches_output)


def test_powers_are_the_mean_squares_of_the_training_targets(problem):
    expected = np.mean(problem.rows.image_target[problem.training].astype(np.float64) ** 2)
    assert problem.powers["image"] == pytest.approx(expected)
    assert problem.powers == measure_powers(problem.rows, problem.training)


def test_the_loss_is_the_error_of_each_stream_over_its_power(problem):
    rows, rng = take_rows(problem.rows, np.arange(3)), np.random.default_rng(0)
    targets = {"image": problem.rows.image_target[:3], "text": problem.rows.text_target}
    outputs, expected = {}, 0.0
    for name in problem.powers:
        outputs[name] = targets[name][:3] + rng.standard_normal(targets[name][:3].shape)
        expected += np.square(outputs[name] - targets[name][:3]).sum() / 3 / problem.powers[name]
    found = compute_loss(problem, {name: mx.array(value) for name, value in outputs.items()}, rows)
    assert found.item() == pytest.approx(expected, rel=1e-4)  # summed in fp32


def test_errors_are_relative_to_the_power_of_the_measured_rows(problem, monkeypatch):
    """Whatever the rows at a time are."""
    weights = {name: 1.05 * weight for name, weight in problem.weights.items()}
    where = problem.held_out
    rows = take_rows(problem.rows, where)
    image = np.array(run_rows(problem, weights, quantize_nothing, rows)["image"])
    target = problem.rows.image_target[where].astype(np.float64)
    expected = np.square(image - target).sum() / np.square(target).sum()
    for batch in (1000, 7):
        monkeypatch.setattr(block_problem, "BATCH", batch)
        errors = measure_errors(problem, weights, lambda rows: quantize_nothing, where)
        assert errors["image"] == pytest.approx(expected, rel=1e-4)  # summed in fp32


def test_an_error_is_measured_with_the_quantizers_of_its_rows(problem):
    """Each batch of rows binds its own."""
    seen = []

    def bind(rows):
        seen.extend(rows.sigma_index.tolist())
        return quantize_nothing

    measure_errors(problem, problem.weights, bind, problem.held_out)
    assert seen == problem.rows.sigma_index[problem.held_out].tolist()


def test_batches_have_every_index_once(problem):
    indices = np.random.default_rng(0).permutation(150)
    batches = list(list_batches(problem, indices))
    np.testing.assert_array_equal(np.concatenate(batches), indices)
    assert [len(batch) for batch in batches] == [64, 64, 22]


def test_queries_keys_and_values_share_one_quantized_input(problem):
    calls = Counter()

    def count(key, x):
        calls[key] += 1
        return x

    run_rows(problem, problem.weights, count, take_rows(problem.rows, np.arange(2)))
    assert set(calls.values()) == {1}
    image = ["image.attn.q_proj", "image.attn.o_proj", "image.mlp.fc1", "image.mlp.fc2"]
    text = [name.replace("image", "text") for name in image]
    wanted = image + (text if problem.block.text_reaches_output else text[:1])
    assert sorted(calls) == sorted(f"{problem.block.name}.{name}" for name in wanted)


def test_every_layer_receives_the_quantized_input(problem):
    """Doubling one reader's input changes the outputs as doubling its layers' weights does."""
    rows = take_rows(problem.rows, np.arange(2))
    for key in set(problem.readers.values()):
        doubled = run_rows(problem, problem.weights, lambda k, x, key=key: 2 * x if k == key else x, rows)["image"]
        weights = {name: 2 * w if problem.readers[name] == key else w for name, w in problem.weights.items()}
        expected = run_rows(problem, weights, quantize_nothing, rows)["image"]
        np.testing.assert_allclose(np.array(doubled), np.array(expected), atol=1e-4)


@pytest.mark.parametrize("suffix", ["image.attn.v_proj", "text.attn.k_proj", "image.attn.o_proj", "image.mlp.fc2"])
def test_the_first_layer_with_a_non_finite_output_is_found(problem, suffix):
    rows, name = take_rows(problem.rows, np.arange(2)), f"{problem.block.name}.{suffix}"
    assert find_nonfinite_layer(problem, problem.weights, quantize_nothing, rows) is None
    assert find_nonfinite_layer(problem, spoil(problem, name), quantize_nothing, rows) == name


def test_a_layer_with_a_non_finite_input_is_found(problem):
    rows = take_rows(problem.rows, np.arange(2))
    key = f"{problem.block.name}.image.mlp.fc1"
    found = find_nonfinite_layer(problem, problem.weights, lambda k, x: x * np.inf if k == key else x, rows)
    assert found == key


def test_a_problem_is_not_changed_by_running_it(problem):
    before = {name: np.array(weight) for name, weight in problem.weights.items()}
    copy = replace(problem, weights=dict(problem.weights))
    measure_errors(
        copy, spoil(copy, f"{problem.block.name}.image.attn.q_proj"), lambda r: quantize_nothing, np.arange(2)
    )
    assert all((np.array(problem.weights[name]) == value).all() for name, value in before.items())
