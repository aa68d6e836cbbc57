"""mflux loads what the workflow made of a miniature FLUX.1-schnell, and computes with the same weights.

`make mflux` sets up .venv-mflux, where mflux is, and runs this. Nothing of mflux is replaced but its sizes. Its
arithmetic differs from DiffusionKit's between the layers, also in full precision; the twin here follows mflux there:
keys have biases, text and unified blocks have the GELU by tanh, the features of a timestep are fp32, and the
conditioning is rounded to bf16.
"""

import json
import os
import subprocess
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from taqmlx.mmdit import blocks
from taqmlx.mmdit.forward import bind_weights, predict_velocity
from taqmlx.mmdit.packed import restore_weight
from taqmlx.models.catalogue import find_model
from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears
from taqmlx.planning.mflux_layout import list_modules
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.store.packed_checkpoint import read_packed
from tests.support.flux_run import run_flux
from tools.miniature.run import call

PYTHON = Path(".venv-mflux/bin/python").absolute()
PROGRAM, STARTUP = Path("tools/mflux/run_transformer.py"), Path("tools/mflux/startup")
STEPS, HEIGHT, WIDTH, TOKENS, POOLED = 2, 8, 12, 5, 24
TOLERANCE = 1e-5  # of equal velocities
EPS = 1e-5  # of mflux's norms of queries and keys; the published model's is 1e-6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.whole,
    pytest.mark.skipif(not PYTHON.exists(), reason="mflux is not installed: make mflux"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every job run once, and the same files at hand for this process."""
    with run_flux(tmp_path_factory) as run:
        yield run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The file that mflux reads, and its arrays."""
    keys = mx.random.split(mx.random.key(0), 3)
    shapes = {"latents": (1, 16, HEIGHT, WIDTH), "context": (1, TOKENS, 4096), "pooled": (1, POOLED)}
    arrays = {
        name: mx.random.normal(shape, key=key).astype(mx.bfloat16).astype(mx.float32)
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }
    path = tmp_path_factory.mktemp("inputs") / "inputs.safetensors"
    mx.save_safetensors(str(path), arrays, {"steps": str(STEPS)})
    return path, arrays


@pytest.fixture(scope="module")
def call_mflux(run, inputs, tmp_path_factory):
    """call_mflux(precision): what mflux computes, and the bits and group size of its layers."""

    def compute(precision):
        outputs = tmp_path_factory.mktemp("outputs") / "outputs.safetensors"
        words = [PYTHON, PROGRAM, run.results / "mflux", inputs[0], outputs, precision]
        environment = os.environ | {"PYTHONPATH": str(STARTUP), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            list(map(str, words)),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stdout
        arrays, metadata = mx.load(str(outputs), return_metadata=True)
        return arrays, json.loads(metadata["layers"])

    return compute


@pytest.fixture(scope="module")
def exact(call_mflux):
    """What mflux computes in fp32."""
    return call_mflux("float32")


@pytest.fixture(scope="module")
def model(run):
    """Our transformer with the packed weights, dequantized: the model, and weights and biases by layer name."""
    source = find_model("flux-schnell", ModelOptions.take(run.config), run.config["weights_from"])
    packed, transformer = read_packed(run.results / "quantized"), source.load_transformer()
    dense = {key: mx.array(array) for key, array in packed.tensors.items() if array.dtype == np.float32}
    transformer.load_weights([(key, value) for key, value in dense.items() if is_plain(key, packed)], strict=False)
    keys = {path: bias.astype(mx.bfloat16).astype(mx.float32) for path, bias in source.load_key_biases().items()}
    weights, biases = {}, {}
    for layer in list_linears(*plan.MODEL_BLOCKS["flux-schnell"]):
        is_quantized = layer.path in packed.config["quantization"]
        weights[layer.name] = (
            mx.array(restore_weight(packed, layer.path)) if is_quantized else dense[f"{layer.path}.weight"]
        )
        biases[layer.name] = keys.get(layer.path, dense.get(f"{layer.path}.bias"))
        if layer.name.endswith("unified.mlp.fc2"):
            biases[layer.name] = None
    return transformer, weights, biases


def is_plain(key, packed):
    """Whether a tensor is one of DiffusionKit's modules as they are."""
    return key.rpartition(".")[0] not in packed.config["quantization"] or key.endswith(".bias")


class Twin:
    """`linear(name, x)` with the packed weights, and mflux's functions before a layer where they are others."""

    def __init__(self, model, conditioning, timestep):
        _, weights, biases = model
        self.linear, self.hidden = bind_weights(weights, biases), {}
        self.conditioning, self.timestep, self.embedded = conditioning, timestep, []

    def __call__(self, name, x):
        stream, _, part = name.rpartition(".mlp.")
        if name == "t_embedder.mlp.layers.0":
            x = self.expand_timestep()
        elif name.endswith("adaLN_modulation"):
            x = nn.silu(self.conditioning.astype(mx.bfloat16)).astype(mx.float32)
        elif part == "fc2" and not stream.endswith(".image"):
            x = nn.gelu_approx(self.hidden[stream])
        y = self.linear(name, x)
        if part == "fc1":
            self.hidden[stream] = y
        if name.endswith("_embedder.mlp.layers.2"):
            self.embedded.append(y)
        return y

    def expand_timestep(self):
        """Cosines, then sines, of a timestep in fp32."""
        angles = self.timestep[:, None] * mx.exp(-np.log(10000) * mx.arange(128) / 128)
        return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


def predict(model, inputs, conditioning, timestep):
    """Our velocity (1, 16, h, w), and the conditioning."""
    latents = inputs["latents"].transpose(0, 2, 3, 1)
    twin = Twin(model, conditioning, timestep)
    velocity = predict_velocity(
        model[0], twin, latents, inputs["context"], inputs["pooled"], timestep, mx.zeros(1, mx.int32)
    )
    return velocity.transpose(0, 3, 1, 2), sum(twin.embedded)


def measure_error(found, wanted):
    return (mx.linalg.norm(found - wanted) / mx.linalg.norm(wanted)).item()


def test_every_layer_has_its_bits_and_group_size(run, exact):
    quantization = read_packed(run.results / "quantized").config["quantization"]
    _, layers = exact
    modules = {module.path: module for module in list_modules(19, 38) if module.inputs is not None}
    assert layers.keys() == modules.keys()
    for path, module in modules.items():
        kinds = [quantization[source] for source in module.sources if source in quantization]
        wanted = [max(kind["bits"] for kind in kinds), min(kind["group_size"] for kind in kinds)] if kinds else None
        assert layers[path] == wanted, path
    assert layers["single_transformer_blocks.0.proj_out"] == [6, 32]


@pytest.mark.parametrize("step", range(STEPS))
def test_the_velocity_is_ours_in_fp32(model, inputs, exact, monkeypatch, step):
    monkeypatch.setattr(blocks, "NORM_EPS", EPS)
    found, _ = exact
    velocity, conditioning = predict(model, inputs[1], found[f"conditioning.{step}"], found[f"timestep.{step}"])
    assert measure_error(velocity, found[f"velocity.{step}"]) < TOLERANCE
    assert measure_error(conditioning, found[f"conditioning.{step}"]) < 2**-8  # mflux rounds it to bf16


def test_the_velocity_is_nearly_ours_in_mfluxs_own_precision(model, inputs, call_mflux, monkeypatch):
    monkeypatch.setattr(blocks, "NORM_EPS", EPS)
    found, _ = call_mflux("bfloat16")
    velocity, _ = predict(model, inputs[1], found["conditioning.0"], found["timestep.0"])
    assert measure_error(velocity, found["velocity.0"]) < 5e-2


def test_other_codes_are_told_apart(model, inputs, exact, monkeypatch):
    """The tolerance finds one weight of one layer that is another code."""
    monkeypatch.setattr(blocks, "NORM_EPS", EPS)
    found, _ = exact
    transformer, weights, biases = model
    name = "uni_20.unified.attn.o_proj"
    changed = np.array(weights[name])
    changed[3, 5] += np.ptp(changed[3, :32]) / 63
    moved = transformer, weights | {name: mx.array(changed)}, biases
    velocity, _ = predict(moved, inputs[1], found["conditioning.0"], found["timestep.0"])
    assert measure_error(velocity, found["velocity.0"]) > TOLERANCE


def test_the_folder_is_verified(run):
    call("verify_weights", folder=run.results / "mflux", blocks=None)
    assert "all existing results pass" in (run.results / "logs" / "verify_dataset.log").read_text()
