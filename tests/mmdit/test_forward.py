"""The forward equals DiffusionKit's for any batch of rows, and calls every linear by name."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from taqmlx.mmdit.blocks import build_blocks, reject_unsupported, run_block
from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.models.diffusionkit import config
from taqmlx.planning.layers import list_linears
from taqmlx.store.errors import UserError
from tools.reference import copy_transformer, create_transformer


def predict_by_diffusionkit(model, latents, context, pooled, timestep):
    """One call of DiffusionKit's transformer: one row of text per latent, one timestep for all."""
    model = copy_transformer(model)
    timestep = mx.array([timestep])
    model.cache_modulation_params(pooled, timestep)
    return model(latents, context[:, :, None], mx.broadcast_to(timestep, [len(latents)]))


def measure_error(values, reference):
    return (mx.linalg.norm(values - reference) / mx.linalg.norm(reference)).item()


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_every_row_equals_diffusionkit(transformer, conditions, latents, batch):
    context, pooled = (values[:batch] for values in conditions)
    reference = predict_by_diffusionkit(transformer, latents[:batch], context, pooled, 613.0)
    timesteps, rows = mx.full(batch, 613.0), mx.arange(batch)
    velocity = predict_velocity(
        transformer, bind_linears(transformer), latents[:batch], context, pooled, timesteps, rows
    )
    assert measure_error(velocity, reference) <= 1e-5


def test_both_halves_of_a_guided_batch_equal_diffusionkit(transformer, conditions, latents):
    context, pooled = (values[:2] for values in conditions)
    rows = mx.array([0] * 6 + [1] * 6)
    velocity = predict_velocity(
        transformer,
        bind_linears(transformer),
        mx.concatenate([latents, latents]),
        context,
        pooled,
        mx.full(2, 250.0),
        rows,
    )
    for index in range(6):
        pair = mx.concatenate([latents[index : index + 1]] * 2)
        reference = predict_by_diffusionkit(transformer, pair, context, pooled, 250.0)
        assert measure_error(velocity[index], reference[0]) <= 1e-5
        assert measure_error(velocity[index + 6], reference[1]) <= 1e-5


def test_prompts_and_timesteps_mix_in_one_batch(transformer, conditions, latents):
    timesteps = [1000.0, 742.5, 103.7, 8.93]
    order = [2, 0, 3, 1, 2, 0]
    velocity = predict_velocity(
        transformer, bind_linears(transformer), latents, *conditions, mx.array(timesteps), mx.array(order)
    )
    for index, row in enumerate(order):
        reference = predict_by_diffusionkit(
            transformer,
            latents[index : index + 1],
            *(values[row : row + 1] for values in conditions),
            timesteps[row],
        )
        assert measure_error(velocity[index : index + 1], reference) <= 1e-5


def test_latents_may_be_rectangular_and_smaller_than_the_position_table(transformer, conditions, latents):
    context, pooled = (values[:2] for values in conditions)
    small = latents[:2, :4, :6]
    reference = predict_by_diffusionkit(transformer, small, context, pooled, 500.0)
    velocity = predict_velocity(
        transformer, bind_linears(transformer), small, context, pooled, mx.full(2, 500.0), mx.arange(2)
    )
    assert measure_error(velocity, reference) <= 1e-5


def test_every_linear_is_called_once_through_the_argument(transformer, conditions, latents):
    linear, called = bind_linears(transformer), []

    def count(name, x):
        called.append(name)
        return linear(name, x)

    predict_velocity(transformer, count, latents[:4], *conditions, mx.full(4, 500.0), mx.arange(4))
    assert sorted(called) == sorted(layer.name for layer in list_linears(5))


def test_layers_with_one_input_name_read_the_same_activation(transformer, conditions, latents):
    linear, read = bind_linears(transformer), {}
    inputs = {layer.name: layer.input for layer in list_linears(5)}

    def record(name, x):
        read.setdefault(inputs[name], []).append(x)
        return linear(name, x)

    predict_velocity(transformer, record, latents[:4], *conditions, mx.full(4, 500.0), mx.arange(4))
    assert all(mx.array_equal(x, first) for first, *others in read.values() for x in others)


def test_the_weights_do_not_change(conditions, latents):
    model, untouched = create_transformer(), create_transformer()
    predict_velocity(model, bind_linears(model), latents[:4], *conditions, mx.full(4, 500.0), mx.arange(4))
    pairs = zip(tree_flatten(model.parameters()), tree_flatten(untouched.parameters()), strict=True)
    assert all(name == other and mx.array_equal(value, before) for (name, value), (other, before) in pairs)


class TestOneBlock:
    """Blocks are replayed alone, with gradients."""

    @pytest.fixture
    def inputs(self):
        shapes = (2, 16, 128), (2, 20, 128), (2, 1, 768), (2, 1, 768)
        keys = mx.random.split(mx.random.key(3), len(shapes))
        image, text, *parts = (mx.random.normal(shape, key=key) for key, shape in zip(keys, shapes, strict=True))
        return image, text, dict(zip(("image", "text"), parts, strict=True))

    def test_only_the_last_block_ends_the_text_stream(self, transformer, inputs):
        blocks, linear = build_blocks(transformer, (8, 8)), bind_linears(transformer)
        assert run_block(linear, blocks[3], *inputs)[1].shape == (2, 20, 128)
        image, text, parts = inputs
        assert run_block(linear, blocks[4], image, text, parts | {"text": parts["text"][:, :, :256]})[1] is None

    def test_the_gradient_is_the_slope(self, transformer, inputs):
        block, linear = build_blocks(transformer, (8, 8))[0], bind_linears(transformer)
        direction = mx.random.normal(inputs[0].shape, key=mx.random.key(4))

        def measure_loss(image):
            outputs = run_block(linear, block, image, *inputs[1:])
            return sum(mx.mean(mx.square(output)) for output in outputs)

        slope = mx.sum(mx.grad(measure_loss)(inputs[0]) * direction).item()
        step = 1e-2
        ahead, behind = (measure_loss(inputs[0] + sign * step * direction).item() for sign in (1, -1))
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-2)

    def test_the_gradient_is_finite_for_large_values(self, transformer, inputs):
        block, linear = build_blocks(transformer, (8, 8))[0], bind_linears(transformer)

        def measure_loss(image_mod):
            return mx.mean(run_block(linear, block, *inputs[:2], inputs[2] | {"image": image_mod})[0])

        gradient = np.array(mx.grad(measure_loss)(1e3 * inputs[2]["image"]))
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (config.FLUX_DEV, "a guidance embedder"),
        (replace(config.FLUX_SCHNELL, parallel_mlp_for_unified_blocks=False), "unified blocks whose MLP follows"),
    ],
)
def test_an_unsupported_transformer_is_rejected(sizes, words):
    with pytest.raises(UserError, match=words):
        reject_unsupported(sizes)


@pytest.mark.parametrize("sizes", [config.SD3_2b, config.SD3_8b, config.FLUX_SCHNELL])
def test_the_released_transformers_are_accepted(sizes):
    reject_unsupported(sizes)
