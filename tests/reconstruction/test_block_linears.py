"""A model over block files computes the same as the packed files."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.models import embedded
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.weight_grid import dequantize
from taqmlx.planning import configuration, plan
from taqmlx.reconstruction.block_linears import bind_blocks
from taqmlx.store.block_file import read_block
from taqmlx.store.errors import UserError
from tools.small_results.presets import PAPER
from tools.small_results.study import write_rounded_blocks

SIGMAS = np.array([1.0, 0.5], np.float32)


def write_files(folder, inputs=None, **values):
    """Blocks rounded to nearest under the paper's rules with these values."""
    config = configuration.complete(PAPER | {"engine": "rtn"} | values, configuration.load_schema())
    parameters = plan.select_parameters("optimise_block", config, [])
    return [read_block(path) for path in write_rounded_blocks(folder, parameters, inputs=inputs, sigmas=SIGMAS)]


@pytest.fixture(scope="module")
def model():
    return embedded.load_transformer()


def predict(model, linear):
    rng = np.random.default_rng(0)
    shapes = ((2, 8, 8, 16), (2, 20, 128), (2, 128))
    latents, context, pooled = (mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)
    return np.array(predict_velocity(model, linear, latents, context, pooled, mx.array([600.0, 600.0]), mx.arange(2)))


def test_blocks_without_a_quantized_layer_are_full_precision(model, tmp_path):
    none = [{"layers": "*", "bits": 16}]
    files = write_files(tmp_path, weights=none, activations=none)
    found = predict(model, bind_blocks(model, files).at(0.6))
    np.testing.assert_allclose(found, predict(model, bind_linears(model)), atol=1e-5)


def test_weights_are_those_of_the_files_and_otherwise_those_of_the_model(model, tmp_path):
    files = write_files(tmp_path, activations=[{"layers": "*", "bits": 16}])
    stored = {name: dequantize(x.codes, x.grid) for file in files for name, x in file.weights.items()}
    full = bind_linears(model)

    def linear(name, x):
        if name not in stored:
            return full(name, x)
        zeros = mx.zeros((1, x.shape[-1]))
        return x @ mx.array(stored[name]).T + full(name, zeros)[0]  # the bias is what a zero input gives

    found = predict(model, bind_blocks(model, files).at(0.6))
    np.testing.assert_allclose(found, predict(model, linear), atol=1e-4)
    assert np.abs(found - predict(model, full)).max() > 1e-2


def test_inputs_are_quantized_with_the_step_size_of_their_noise_level(model, tmp_path):
    name = "mm_00.image.mlp.fc1"
    rules = [{"layers": "*", "bits": 16}, {"layers": name, "bits": 8, "policy": "lut", "shift": False}]
    inputs = {name: InputQuantizer("lut", 8, np.array([4.0, 0.5], np.float32))}
    linears = bind_blocks(
        model, write_files(tmp_path, inputs, weights=[{"layers": "*", "bits": 16}], activations=rules)
    )
    x = mx.array(np.random.default_rng(0).standard_normal((1, 3, 128)).astype(np.float32))
    for sigma, step in ((0.9, 4.0), (0.3, 0.5)):
        expected = bind_linears(model)(name, mx.round(x / step) * step)
        np.testing.assert_allclose(np.array(linears.at(sigma)(name, x)), np.array(expected), atol=1e-5)


def test_a_missing_step_size_is_named(model, tmp_path):
    with pytest.raises(UserError, match=r"mm_00.image.attn.\w+: .*no step sizes"):
        bind_blocks(model, write_files(tmp_path))
