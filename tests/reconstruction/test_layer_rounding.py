"""A layer rounded with its inputs: never worse than RTN, and far better for inputs in few directions."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.capture import assemble_rows
from taqmlx.mmdit.forward import bind_linears, embed_condition
from taqmlx.models import embedded
from taqmlx.numerics.gptq import accumulate_hessian, round_with_gptq
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.planning.layers import list_linears
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.reconstruction.layer_rounding import DAMPING, choose_damping, round_layer
from taqmlx.store.block_file import LayerWeight

RULE = {"bits": 4, "group_size": 64, "symmetric": False, "range": "search"}
WIDTH = 64


def draw_inputs(rows, directions, seed=0):
    """Inputs (rows, 64) that lie in the given number of directions."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).standard_normal((directions, WIDTH))
    return (rng.standard_normal((rows, directions)) @ basis).astype(np.float32)


@pytest.fixture(scope="module")
def modulation():
    """The embedded model, and what its adaLN layers read, over noise levels, of 18 prompts and of 6 others."""
    model = embedded.load_transformer()
    prompts = [
        f"a {size} {colour} {shape}"
        for size in ("large", "small")
        for colour in ("red", "blue", "green", "white")
        for shape in ("circle", "square", "triangle")
    ]
    cs, pooled = (np.array(part) for part in embedded.encode_prompts(prompts))
    places, timesteps = np.repeat(np.arange(24), 25), np.tile(np.linspace(1000, 10, 25), 24)
    batch = assemble_rows(np.zeros((len(places), 1, 1, 1)), timesteps, cs[places, :, :1], pooled[places])
    x = np.array(embed_condition(model.config, bind_linears(model), batch.pooled, batch.timesteps))
    held_out = np.tile(places % 4 == 0, cs.shape[1])
    return model, x[~held_out], x[held_out]


def hessian_of(x):
    return accumulate_hessian(None, x)


def measure_decibels(weight, layer, x):
    """Signal to noise of the layer's output on x (n, in), in dB."""
    exact, error = x @ weight.T, x @ (dequantize(layer.codes, layer.grid) - weight).T
    return 10 * np.log10(np.square(exact).sum() / np.square(error).sum())


@pytest.fixture
def weight():
    return np.random.default_rng(5).standard_normal((32, WIDTH)).astype(np.float32)


def round_it(weight, training, held_out, engine="adaround", **rule):
    return round_layer(mx.array(weight), RULE | rule, hessian_of(training), held_out, engine)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("directions", [3, 16, WIDTH])
def test_the_held_out_error_is_never_above_that_of_rtn(weight, bits, directions):
    training, held_out = draw_inputs(200, directions), draw_inputs(50, directions, seed=1)
    found = round_it(weight, training, held_out, bits=bits)
    nearest = round_it(weight, training, held_out, engine="rtn", bits=bits)
    assert measure_decibels(weight, found, held_out) >= measure_decibels(weight, nearest, held_out)


def test_the_better_rounding_on_held_out_rows_is_chosen(weight):
    """GPTQ by few directions, measured on inputs in all of them: nearest. On inputs like those learned from: GPTQ."""
    training, grid = draw_inputs(200, 2), choose_grid(weight, RULE)
    everywhere = np.random.default_rng(3).standard_normal((300, WIDTH)).astype(np.float32)
    nearest, learned = round_to_grid(weight, grid), round_with_gptq(weight, grid, hessian_of(training), DAMPING)
    assert (nearest != learned).any()
    np.testing.assert_array_equal(round_it(weight, training, everywhere).codes, nearest)
    np.testing.assert_array_equal(round_it(weight, training, draw_inputs(50, 2, seed=1)).codes, learned)


def test_the_engine_rtn_rounds_to_nearest_for_any_inputs(weight):
    training = draw_inputs(200, 2)
    found = round_it(weight, training, training, engine="rtn")
    grid = choose_grid(weight, RULE)
    np.testing.assert_array_equal(found.codes, round_to_grid(weight, grid))
    for part, expected in zip(found.grid, grid, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_mismatched_shapes_are_rejected(weight):
    x = draw_inputs(10, 4)
    with pytest.raises(ValueError, match="64 inputs are not a multiple of the group size 128"):
        round_it(weight, x, x, group_size=128)
    with pytest.raises(ValueError, match="not finite"):
        round_it(weight * np.float32(np.inf), x, x)
    with pytest.raises(ValueError, match="not finite"):
        round_it(weight, x * np.float32(np.nan), x)


def test_block_inputs_use_the_damping_of_blocks():
    by_role = {layer.role: choose_damping(layer, 0.01) for layer in list_linears(5)}
    assert by_role.pop("adaLN") == by_role.pop("embedder") == by_role.pop("final") == DAMPING
    assert set(by_role.values()) == {0.01}


@pytest.mark.parametrize("name", ["mm_00.text", "mm_02.image", "mm_04.image", "final_layer"])
def test_adaln_of_the_embedded_model_gains_10_db_over_rtn(modulation, name):
    """Other prompts are held out. The issue: 47 dB against 20."""
    model, training, held_out = modulation
    layers = [layer for layer in list_linears(5) if layer.name == f"{name}.adaLN_modulation"]
    (weight,) = read_weights(model, layers)[0].values()
    found = round_layer(weight, RULE, hessian_of(training), held_out, "gptq")
    nearest = LayerWeight(found.grid, round_to_grid(np.array(weight), found.grid))
    gptq, rtn = (measure_decibels(np.array(weight), layer, held_out) for layer in (found, nearest))
    assert gptq >= rtn + 10
    assert gptq > 35
