"""The states between blocks are those of the forward, and each block can be replayed from them."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.blocks import build_blocks
from taqmlx.mmdit.capture import assemble_rows, capture_states
from taqmlx.mmdit.forward import (
    advance_block,
    begin_blocks,
    bind_linears,
    finish_velocity,
    measure_shapes,
    predict_velocity,
)
from taqmlx.planning import configuration
from taqmlx.planning.capture_groups import count_passes, find_span, list_groups

TIMESTEPS = np.array([1000, 742.5, 8.9], np.float32)


@pytest.fixture(scope="module")
def batch():
    """Three points at three timesteps, each with its prompt and without."""
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((3, 8, 8, 16)).astype(np.float16)
    shapes = (3, 2, 20, 128), (3, 2, 128)
    return assemble_rows(xs, TIMESTEPS, *(rng.standard_normal(shape).astype(np.float32) for shape in shapes))


@pytest.fixture(scope="module")
def captured(transformer, batch):
    modulation, states = capture_states(transformer, bind_linears(transformer), batch)
    return modulation, list(states)


def test_a_batch_has_every_point_with_its_prompt_and_without(batch):
    assert batch.rows.tolist() == list(range(6))
    assert batch.timesteps.tolist() == [*TIMESTEPS, *TIMESTEPS]
    assert mx.array_equal(batch.latents[:3], batch.latents[3:])
    assert not mx.array_equal(batch.context[:3], batch.context[3:])


def test_there_are_states_before_each_block_and_an_image_after_the_last(transformer, batch, captured):
    shapes = measure_shapes(transformer.config, batch.latents.shape[1:], batch.context.shape[1])
    modulation, states = captured
    assert modulation.shape == (6, 128)
    assert [list(image.shape) for image, _ in states] == [[6, *shapes["image_shape"]]] * 6
    assert [list(text.shape) for _, text in states[:5]] == [[6, *shapes["text_shape"]]] * 5
    assert states[5][1] is None


@pytest.mark.parametrize("span", [range(0, 2), range(2, 5), range(4, 5)])
def test_the_states_of_consecutive_blocks_are_those_of_all(transformer, batch, captured, span):
    modulation, states = capture_states(transformer, bind_linears(transformer), batch, span)
    np.testing.assert_array_equal(modulation, captured[0])
    found, expected = list(states), captured[1][span.start : span.stop + 1]
    assert len(found) == len(expected) == len(span) + 1
    for (image, text), (own_image, own_text) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(image, own_image)
        assert (text is None) == (own_text is None)
        assert text is None or np.array_equal(text, own_text)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_groups_of_blocks_take_the_forwards_of_the_budget(transformer, batch, groups):
    config = configuration.complete({"capture_groups": groups}, configuration.load_schema())
    linear, run = bind_linears(transformer), []

    def record(name, x):
        run.extend([name] if name.endswith("image.adaLN_modulation") else [])
        return linear(name, x)

    for names in list_groups(config):
        _, states = capture_states(transformer, record, batch, find_span("embedded", names))
        list(states)
    assert len(run) / 5 == pytest.approx(count_passes(config))


def test_the_states_are_those_that_the_linears_of_the_forward_receive(transformer, batch, captured):
    """The residual stream is not a linear's input; its layer norm, modulated, is: the queries' input of each block."""
    modulation, states = captured
    linear, read = bind_linears(transformer), {}

    def record(name, x):
        read[name] = x
        return linear(name, x)

    predict_velocity(transformer, record, *batch)
    np.testing.assert_array_equal(modulation, np.array(read["mm_00.image.adaLN_modulation"]))
    for block, (image, text) in zip(build_blocks(transformer, (8, 8)), states, strict=False):
        for stream, x in (("image", image), ("text", text)):
            shift, scale = (
                np.array(linear(f"{block.name}.{stream}.adaLN_modulation", mx.array(modulation)))[:, None]
                .reshape(6, 1, -1, 128)[:, :, :2]
                .transpose(2, 0, 1, 3)
            )
            centred = x - x.mean(axis=-1, keepdims=True)
            normal = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + block.eps)
            expected = np.array(read[f"{block.name}.{stream}.attn.q_proj"])
            np.testing.assert_allclose(normal * (1 + scale) + shift, expected, rtol=1e-4, atol=1e-4)


def test_the_blocks_in_sequence_are_the_forward(transformer, batch, captured):
    linear, (modulation, states) = bind_linears(transformer), captured
    velocity = predict_velocity(transformer, linear, *batch)
    _, _, embedded = begin_blocks(transformer, linear, *batch)
    np.testing.assert_array_equal(np.array(embedded), modulation)
    image = mx.array(states[-1][0])
    finished = finish_velocity(transformer, linear, image, embedded, batch.rows, batch.latents.shape)
    assert mx.array_equal(finished, velocity)


def test_a_replayed_block_gives_the_input_of_the_next(transformer, batch, captured):
    linear, (modulation, states) = bind_linears(transformer), captured
    for block, before, after in zip(build_blocks(transformer, (8, 8)), states[:-1], states[1:], strict=True):
        image, text = advance_block(linear, block, *map(mx.array, before), mx.array(modulation), batch.rows)
        np.testing.assert_array_equal(np.array(image), after[0])
        assert (text is None) == (after[1] is None)
        if text is not None:
            np.testing.assert_array_equal(np.array(text), after[1])
