"""Observation batches, and the layer inputs observed on them."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.mmdit.observe import assemble_batch, find_nonfinite_row, observe_batch
from taqmlx.models.catalogue import find_model
from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears

PROMPTS = np.array([2, 0, 2])


@pytest.fixture(scope="module")
def transformer():
    return find_model("embedded").load_transformer()


@pytest.fixture(scope="module")
def conditions():
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, 2, 5, 128)).astype(np.float32), rng.standard_normal((3, 2, 128)).astype(np.float32)


@pytest.fixture(scope="module")
def xs():
    return np.random.default_rng(1).standard_normal((3, 8, 8, 16)).astype(np.float16)


@pytest.fixture(scope="module")
def batch(xs, conditions):
    return assemble_batch(xs, PROMPTS, 500.0, *conditions)


@pytest.fixture(scope="module")
def observed(transformer, batch):
    layers = list_linears(*plan.MODEL_BLOCKS["embedded"])
    return dict(observe_batch(transformer, bind_linears(transformer), layers, batch))


def test_a_batch_has_every_point_with_its_prompt_and_without(batch, xs, conditions):
    assert batch.context.shape[0] == 4  # two prompts, two halves: a shared prompt is there once
    for half in (0, 1):
        for point, prompt in enumerate(PROMPTS):
            row = half * len(PROMPTS) + point
            np.testing.assert_array_equal(np.array(batch.latents[row]), xs[point].astype(np.float32))
            condition = int(batch.rows[row])
            np.testing.assert_array_equal(np.array(batch.context[condition]), conditions[0][prompt, half])
            np.testing.assert_array_equal(np.array(batch.pooled[condition]), conditions[1][prompt, half])
            assert batch.timesteps[condition].item() == 500


def test_a_shared_condition_counts_once_per_row(observed, conditions):
    rows = np.concatenate([conditions[1][PROMPTS, half] for half in (0, 1)])
    found = observed["y_embedder.mlp.layers.0"].channels
    assert found.rows == 6
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), atol=1e-6)
    tokens = np.concatenate([conditions[0][PROMPTS, half] for half in (0, 1)]).reshape(-1, 128)
    found = observed["context_embedder"].channels
    assert found.rows == len(tokens)
    np.testing.assert_allclose(found.mean, tokens.mean(axis=0), atol=1e-6)


def test_batching_does_not_change_the_observations(transformer, observed, xs, conditions):
    layers = list_linears(*plan.MODEL_BLOCKS["embedded"])
    alone = [
        dict(
            observe_batch(
                transformer, bind_linears(transformer), layers, assemble_batch(x[None], [p], 500.0, *conditions)
            )
        )
        for x, p in zip(xs, PROMPTS, strict=True)
    ]
    for name, reduced in observed.items():
        scale = max(1e-6, np.abs(reduced.channels.maximum).max(), np.abs(reduced.channels.minimum).max())
        maximum = np.max([part[name].channels.maximum for part in alone], axis=0)
        np.testing.assert_allclose(reduced.channels.maximum, maximum, atol=1e-4 * scale, err_msg=name)
        sample = np.concatenate([[part[name].sample[half] for part in alone] for half in (0, 1)])
        np.testing.assert_allclose(reduced.sample, sample, atol=1e-4 * scale, err_msg=name)


def test_only_the_rows_of_chosen_points_are_sampled_and_all_are_in_the_statistics(transformer, batch, observed):
    layers = list_linears(*plan.MODEL_BLOCKS["embedded"])
    chosen = np.array([False, True, False])
    few = dict(observe_batch(transformer, bind_linears(transformer), layers, batch, chosen))
    none = dict(observe_batch(transformer, bind_linears(transformer), layers, batch, ~np.ones(3, bool)))
    for name, reduced in observed.items():
        np.testing.assert_array_equal(few[name].sample, reduced.sample[[1, 4]], err_msg=name)  # a row per condition
        assert none[name].sample.size == 0
        for field, expected in reduced.channels._asdict().items():
            np.testing.assert_array_equal(getattr(few[name].channels, field), expected, err_msg=name)


def test_observing_does_not_change_the_forward(transformer, batch):
    linear = bind_linears(transformer)
    before = np.array(predict_velocity(transformer, linear, *batch))
    list(observe_batch(transformer, linear, list_linears(*plan.MODEL_BLOCKS["embedded"]), batch))
    np.testing.assert_array_equal(np.array(predict_velocity(transformer, linear, *batch)), before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_is_found_where_it_enters(transformer, xs, conditions, value):
    broken = xs.copy()
    broken[1, 3, 3, 3] = value
    layers = list_linears(*plan.MODEL_BLOCKS["embedded"])
    seen = observe_batch(
        transformer, bind_linears(transformer), layers, assemble_batch(broken, PROMPTS, 500.0, *conditions)
    )
    layer, row = next((r.layer, find_nonfinite_row(r)) for _, r in seen if find_nonfinite_row(r) is not None)
    assert (layer, row) == ("mm_00.image.attn.q_proj", 1)


def test_an_infinite_condition_is_found_in_its_first_row(transformer, xs, conditions):
    context = conditions[0].copy()
    context[0, 1, 2, 3] = np.inf  # the negative half of prompt 0, which point 1 has
    layers = list_linears(*plan.MODEL_BLOCKS["embedded"])
    batch = assemble_batch(xs, PROMPTS, 500.0, context, conditions[1])
    seen = dict(observe_batch(transformer, bind_linears(transformer), layers, batch))
    assert find_nonfinite_row(seen["context_embedder"]) == len(PROMPTS) + 1
    assert find_nonfinite_row(seen["y_embedder.mlp.layers.0"]) is None


def test_finite_values_are_accepted(observed):
    assert {find_nonfinite_row(reduced) for reduced in observed.values()} == {None}


def test_timesteps_are_passed_to_the_model(transformer, xs, conditions):
    linear = bind_linears(transformer)
    early, late = (
        predict_velocity(transformer, linear, *assemble_batch(xs, PROMPTS, t, *conditions)) for t in (900.0, 100.0)
    )
    assert mx.abs(early - late).max().item() > 0
