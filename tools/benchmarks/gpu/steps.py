"""One guided Euler step of a transformer with random weights: fp32, fp16, and packed W4A16.

`python -m tools.benchmarks.gpu.steps DEVICE SIZE` prints one JSON object: seconds per step of one trajectory and peak
MB of each, and the error of the packed velocity, which is that of RTN on random weights.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import taqmlx  # noqa: F401  before MLX, for its BLAS

import mlx.core as mx  # isort: skip
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.forward import bind_linears, resolve_bias
from taqmlx.mmdit.quantized import PackedWeight, QuantizedLinears
from taqmlx.mmdit.sampling import LinearAt, bind_step
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.models.diffusionkit import config, mmdit
from taqmlx.numerics.schedule import compute_sigmas, draw_noise, start_latents
from tools.benchmarks.gpu.device import choose_device, evaluate, read_memory, reset_memory
from tools.reference import SIZES

STEPS, GUIDANCE, SHIFT, BITS, GROUP = 4, 4.0, 3.0, 4, 64  # the first step compiles the kernels and is not counted
PRECISIONS = {"fp32": mx.float32, "fp16": mx.float16}
# Sizes of the transformer, latent (h, w, c), and text tokens without and with T5.
MODELS = {
    "sd3-medium": (lambda: config.SD3_2b, (32, 32, 16), (154, 589)),
    "small": (lambda: config.MMDiTConfig(**SIZES), (8, 8, 16), (20, 30)),
}


def create_transformer(size: str, dtype: mx.Dtype) -> Transformer:
    """A transformer with small random weights in `dtype`, evaluated."""
    model = mmdit.MMDiT(MODELS[size][0]())
    weights = []
    for index, (name, value) in enumerate(tree_flatten(model.parameters())):
        drawn = mx.random.normal(value.shape, key=mx.random.key(index)) * value.shape[-1] ** -0.5
        weights.append((name, drawn.astype(dtype)))
        evaluate(weights[-1][1])
    model.update(tree_unflatten(weights))
    return model


def pack(model: Transformer) -> LinearAt:
    """Its linear layers rounded to BITS in groups of GROUP, with scales in the type of the weights."""
    layers = list_layers(model)
    weights, biases = {}, {layer.name: resolve_bias(model, layer) for layer in layers}
    for layer in layers:
        parts = mx.quantize(resolve_module(model, layer.path)["weight"], group_size=GROUP, bits=BITS)
        evaluate(*parts)
        weights[layer.name] = PackedWeight(*parts, BITS, GROUP)
    return QuantizedLinears(layers, weights, biases, {}, np.ones(1), "nearest").at


def draw_step(model: Transformer, size: str, tokens: int, linear_at: LinearAt) -> Callable[[], tuple[float, mx.array]]:
    """`advance()`: seconds of one step, and the latents after it."""
    _, latent, _ = MODELS[size]
    keys = mx.random.split(mx.random.key(1), 2)
    cs = mx.random.normal((1, 2, tokens, model.config.token_level_text_embed_dim), key=keys[0])
    pooled = mx.random.normal((1, 2, model.config.pooled_text_embed_dim), key=keys[1])
    sigmas = compute_sigmas(STEPS, SHIFT)
    latents = start_latents(draw_noise([0], *latent), sigmas[0])
    step = bind_step(model, linear_at, cs, pooled, mx.zeros(1, mx.int32), sigmas, GUIDANCE)

    def advance() -> tuple[float, mx.array]:
        start = time.perf_counter()
        after = step(latents, 0)
        evaluate(after)
        return time.perf_counter() - start, after - latents

    return advance


def time_steps(model: Transformer, size: str, tokens: int, linear_at: LinearAt) -> tuple[float, mx.array]:
    """Median seconds of a step, and the last change of the latents."""
    advance = draw_step(model, size, tokens, linear_at)
    found = [advance() for _ in range(STEPS)]
    return statistics.median(seconds for seconds, _ in found[1:]), found[-1][1]


def measure(size: str) -> dict[str, float]:
    """Seconds and peak MB by precision and number of text tokens."""
    found: dict[str, float] = {"image_tokens": MODELS[size][1][0] * MODELS[size][1][1] // 4}
    for name, dtype in PRECISIONS.items():
        reset_memory()
        model = create_transformer(size, dtype)
        exact = bind_linears(model)
        for place, tokens in zip(("short", "long"), MODELS[size][2], strict=True):
            found[f"{name}_{place}_s"], wanted = time_steps(model, size, tokens, lambda sigma, own=exact: own)
            found[f"{place}_tokens"] = tokens
        found[f"{name}_mb"] = read_memory()
    linear_at = pack(model)
    for layer in list_layers(model):  # only the packed weights stay
        resolve_module(model, layer.path)["weight"] = mx.zeros((1, 1), dtype)
    del exact
    reset_memory()
    found["w4a16_long_s"], drawn = time_steps(model, size, tokens, linear_at)
    found["w4a16_mb"] = read_memory()
    found["w4a16_error"] = float(mx.square(drawn - wanted).sum() / mx.square(wanted).sum())
    return found


if __name__ == "__main__":
    choose_device(sys.argv[1])
    print(json.dumps(measure(sys.argv[2])))
