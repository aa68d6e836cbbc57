"""Errors of the embedded model and of its hard twin when weights or inputs are rounded, for each part of the hardness.

    python -m tools.benchmarks.outliers --out results/bench_outliers.json

The error is the relative root mean square of the velocity of one forward: 8 captions, the empty one among them, at 5
noise levels. Weights or inputs of the blocks' linear layers are rounded, not both. Static ranges are those of the
inputs measured. Pictures are of held-out captions, 28 steps, guidance 3: all linear layers by RTN at 4 bits in groups
of 64, the inputs of the blocks' at 8 bits with a step size per token.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Linear
from taqmlx.mmdit.forward import bind_linears, bind_weights, predict_velocity
from taqmlx.mmdit.sampling import sample
from taqmlx.models import embedded
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.activation import compute_step, quantize_dequantize
from taqmlx.numerics.quality import measure_relative_error, measure_snr
from taqmlx.numerics.schedule import draw_noise
from taqmlx.numerics.token_rounding import compute_token_step
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.planning.configuration import load_schema
from taqmlx.planning.layers import list_linears
from taqmlx.planning.plan import MODEL_BLOCKS
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.runtime.entry import build_parser, run
from taqmlx.store.files import write_json
from taqmlx.training.pool import draw_example
from taqmlx.training.scoring import write_captions

LAYERS = list_linears(*MODEL_BLOCKS["embedded"])
IN_BLOCKS = {layer.name for layer in LAYERS if layer.block and layer.role != "adaLN"}
INPUTS = {layer.name: layer.input for layer in LAYERS}
RULE = {"bits": 4, "group_size": 64, "symmetric": False, "range": "absmax"}
BITS = 8  # of inputs
SIGMAS, CAPTIONS, CAPTION_SEED = (0.99, 0.9, 0.7, 0.4, 0.1), 8, 31
PICTURES, PICTURE_SEED, STEPS, GUIDANCE = 64, 9_000_000, 28, 3.0
PARTS = load_schema()["properties"]["hardness"]["default"]
MODELS = {"embedded": None, "all": PARTS, **{part: [part] for part in PARTS}}

# function from the name of an input and its values to rounded values
Rounding = Callable[[str, mx.array], mx.array]


class Subject(NamedTuple):
    """A model: weights and biases by layer, the arguments of a forward after the linear layers, and layer inputs."""

    model: object
    transformer: object
    weights: dict[str, mx.array]
    biases: dict[str, mx.array | None]
    batch: tuple[mx.array, ...]
    inputs: dict[str, mx.array]

    def measure(self, linear: Linear) -> float:
        """Relative error of the velocity by other linear layers."""
        exact = predict_velocity(self.transformer, bind_weights(self.weights, self.biases), *self.batch)
        found = predict_velocity(self.transformer, linear, *self.batch)
        return measure_relative_error(np.array(found), np.array(exact))


def write_texts(seed: int, count: int) -> list[str]:
    """Held-out captions of one object and of two in turn."""
    pairs = zip(*(write_captions(seed, count, objects) for objects in (1, 2)), strict=True)
    return [caption.text for pair in pairs for caption in pair][:count]


def prepare(hardness: list[str] | None) -> Subject:
    """The embedded model, or its hard twin with the parts `hardness`."""
    model = embedded if hardness is None else find_model("embedded-hard", ModelOptions(hardness=hardness))
    transformer = model.load_transformer()
    cs, cs_pooled = model.encode_prompts([*write_texts(CAPTION_SEED, CAPTIONS - 1), ""])
    pictures = np.stack([draw_example(CAPTION_SEED, index)[1] for index in range(CAPTIONS)])
    clean, noise = (
        embedded.encode_pictures(embedded.load_encoder(), pictures),
        draw_noise(range(8), *model.LATENT_SHAPE),
    )
    batch = (
        mx.concatenate([sigma * noise + (1 - sigma) * clean for sigma in SIGMAS]),
        mx.concatenate([cs[:, 0]] * len(SIGMAS)),
        mx.concatenate([cs_pooled[:, 0]] * len(SIGMAS)),
        mx.repeat(1000 * mx.array(SIGMAS), CAPTIONS),
        mx.arange(CAPTIONS * len(SIGMAS)),
    )
    exact, inputs = bind_linears(transformer), {}

    def observing(name: str, x: mx.array) -> mx.array:
        inputs[INPUTS[name]] = x
        return exact(name, x)

    mx.eval(predict_velocity(transformer, observing, *batch), inputs)
    return Subject(model, transformer, *read_weights(transformer, LAYERS), batch, inputs)


def round_weights(weights: Mapping[str, mx.array], chosen: set[str]) -> dict[str, mx.array]:
    """Weights with the `chosen` ones by RTN."""
    rounded = dict(weights)
    for name in chosen:
        exact = np.array(weights[name])
        grid = choose_grid(exact, RULE)
        rounded[name] = mx.array(dequantize(round_to_grid(exact, grid), grid))
    return rounded


def correct_biases(subject: Subject, rounded: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Biases plus the mean error of each layer's output over the inputs measured."""
    means = {name: x.reshape(-1, x.shape[-1]).mean(axis=0) for name, x in subject.inputs.items()}
    lost = {name: (subject.weights[name] - rounded[name]) @ means[INPUTS[name]] for name in subject.weights}
    return {name: lost[name] if bias is None else bias + lost[name] for name, bias in subject.biases.items()}


def round_inputs(subject: Subject, weights: Mapping[str, mx.array], rounding: Rounding) -> Linear:
    """Linear layers with the inputs of those in blocks rounded."""
    exact = bind_weights(weights, subject.biases)
    return lambda name, x: exact(name, rounding(INPUTS[name], x) if name in IN_BLOCKS else x)


def list_roundings(inputs: Mapping[str, mx.array]) -> dict[str, Rounding]:
    """Ways to round the inputs, by name."""
    ends = {
        name: (x.min(axis=tuple(range(x.ndim - 1))), x.max(axis=tuple(range(x.ndim - 1)))) for name, x in inputs.items()
    }
    middle = {name: (low + high) / 2 for name, (low, high) in ends.items()}
    whole = {name: compute_step(float(mx.abs(x).max()), BITS).item() for name, x in inputs.items()}
    centred = {name: compute_step(float(mx.abs(x - middle[name]).max()), BITS).item() for name, x in inputs.items()}
    channel = {
        name: mx.array(compute_step(np.array(mx.maximum(mx.abs(low), mx.abs(high))), BITS))
        for name, (low, high) in ends.items()
    }
    return {
        "a8_static": lambda name, x: quantize_dequantize(x, whole[name], BITS),
        "a8_token": lambda name, x: quantize_dequantize(x, compute_token_step(x, BITS), BITS),
        "a8_static_shift": lambda name, x: quantize_dequantize(x, centred[name], BITS, middle[name]),
        "a8_token_shift": lambda name, x: quantize_dequantize(
            x, compute_token_step(x - middle[name], BITS), BITS, middle[name]
        ),
        "a8_channel": lambda name, x: quantize_dequantize(x, channel[name], BITS),
    }


def measure_velocity(subject: Subject) -> dict[str, float]:
    """Error of the velocity by what is rounded."""
    rounded = round_weights(subject.weights, IN_BLOCKS)
    errors = {
        "w4": subject.measure(bind_weights(rounded, subject.biases)),
        "w4_corrected": subject.measure(bind_weights(rounded, correct_biases(subject, rounded))),
    }
    for name, rounding in list_roundings(subject.inputs).items():
        errors[name] = subject.measure(round_inputs(subject, subject.weights, rounding))
    return errors


def measure_pictures(subject: Subject) -> dict[str, float]:
    """Median and 5 % quantile of the latents' SNR by RTN, in dB."""
    model, texts = subject.model, write_texts(CAPTION_SEED + 1, PICTURES)
    noise = draw_noise(range(PICTURE_SEED, PICTURE_SEED + PICTURES), *model.LATENT_SHAPE)
    start = (*model.encode_prompts(texts), noise, model.compute_sigmas(STEPS))
    rounded = round_weights(subject.weights, set(subject.weights))
    by_token = round_inputs(subject, rounded, list_roundings(subject.inputs)["a8_token"])
    exact, found = (
        np.array(sample(subject.transformer, lambda sigma, linear=linear: linear, *start, GUIDANCE))
        for linear in (bind_weights(subject.weights, subject.biases), by_token)
    )
    ratios = [measure_snr(*pair) for pair in zip(found, exact, strict=True)]
    return {"median": float(np.median(ratios)), "p5": float(np.quantile(ratios, 0.05))}


def main(arguments: argparse.Namespace) -> None:
    found = {}
    for name, hardness in MODELS.items():
        subject = prepare(hardness)
        found[name] = {"velocity": measure_velocity(subject)}
        if name in ("embedded", "all"):
            found[name]["pictures"] = measure_pictures(subject)
        print(name, found[name], flush=True)
    about = {"pictures": PICTURES, "steps": STEPS, "guidance": GUIDANCE, "captions": CAPTIONS, "levels": len(SIGMAS)}
    write_json(arguments.out, {"format": "bench-outliers", "version": 1, "about": about, "models": found})


if __name__ == "__main__":
    run(main, build_parser(__doc__, "out"))
