"""Step sizes and final latents against the number of calibration points that the activation statistics observe.

`python -m tools.benchmarks.statistics_points --results RESULTS --model embedded --out FILE.json` observes nested sets
of the calibration points of a finished run, the largest last. Each choice gives a step size of 8 bits to the input of
every block layer at every noise level, and pictures of held-out captions with these inputs and full-precision weights;
with `--packed` with the run's packed weights too. The embedded model and its hard twin have the same velocities, so the
calibration points of one are those of the other; their prompts are encoded again.
"""

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.forward import bind_linears, resolve_bias
from taqmlx.mmdit.observe import assemble_batch, observe_batch
from taqmlx.mmdit.packed import find_packed_weight, list_packed
from taqmlx.mmdit.quantized import QuantizedLinears
from taqmlx.mmdit.sampling import sample
from taqmlx.mmdit.transformer import list_layers
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.activation import compute_ranges, compute_step
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.observations import Observations, add_batch, create_observation, describe_input
from taqmlx.numerics.quality import measure_snr
from taqmlx.numerics.schedule import draw_noise
from taqmlx.numerics.selection import choose_points
from taqmlx.numerics.sigma_lookup import DEFAULT_LOOKUP
from taqmlx.planning import plan
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.calibration import Calibration, open_calibration
from taqmlx.store.files import write_json
from taqmlx.store.packed_checkpoint import read_packed
from taqmlx.training.scoring import write_captions
from workflow_scripts.activations.collect_activations import list_batches, read_points

BITS, STEPS, GUIDANCE, CAPTION_SEED, FIRST_NOISE = 8, 28, 3.0, 77, 900_000


def main(arguments: argparse.Namespace) -> None:
    calibration, model = open_calibration(arguments.results / "calibration.zarr"), load(arguments.model)
    transformer, layers = model.load_transformer(), plan.list_layers(arguments.model)
    steps = calibration.read("steps")
    levels = sorted(set(steps.tolist()))
    encodings = [np.array(part) for part in model.encode_prompts(calibration.seal["parameters"]["prompts"], "")]
    sigmas = np.array([calibration.read("sigmas")[steps == step][0] for step in levels])
    start = start_pictures(model, set(calibration.seal["parameters"]["prompts"]), arguments.pictures)
    exact = bind_linears(transformer)
    reference = np.array(sample(transformer, lambda sigma: exact, *start, GUIDANCE))
    weights = list_weights(transformer, layers, arguments.results / "quantized" if arguments.packed else None)
    observations: Observations = {}
    seen, found = np.zeros(0, np.int64), []
    for count in arguments.counts:
        chosen = choose_points(steps, levels, count, 0)
        observe(transformer, layers, calibration, encodings, np.setdiff1d(chosen, seen), levels, observations)
        seen = chosen
        inputs = list_quantizers(layers, observations)
        entry: dict[str, Any] = {"points": count, "steps": {name: own.step_sizes for name, own in inputs.items()}}
        for way in weights if count in arguments.drawn else ():
            linears = QuantizedLinears(layers, weights[way], list_biases(transformer), inputs, sigmas, DEFAULT_LOOKUP)
            latents = np.array(sample(transformer, linears.at, *start, GUIDANCE))
            entry[way] = [measure_snr(*pair) for pair in zip(latents, reference, strict=True)]
            log.info(f"{count} points, {way}: median {np.median(entry[way]):.2f} dB")
        found.append(entry)
        write_json(arguments.out, summarise(found, arguments))


def load(name: str) -> Any:
    """The model of a name, with its default options."""
    hardness = ["norm", "value", "offset", "post_gelu", "spike", "context"] if name == "embedded-hard" else None
    return find_model(name, ModelOptions(hardness=hardness))


def start_pictures(model: Any, used: set[str], count: int) -> tuple[mx.array, ...]:
    """Arguments of `sample` for captions of combinations held out from training, none of them among `used`."""
    kinds = [write_captions(CAPTION_SEED, count + len(used), objects) for objects in (1, 2)]
    fresh = [[caption.text for caption in kind if caption.text not in used] for kind in kinds]
    texts = [text for pair in zip(*fresh, strict=False) for text in pair][:count]
    noise = draw_noise([FIRST_NOISE + index for index in range(count)], *model.LATENT_SHAPE)
    return (*model.encode_prompts(texts, ""), noise, model.compute_sigmas(STEPS))


def list_weights(transformer: Any, layers: list, packed: Path | None) -> dict[str, dict]:
    """Weights by way: full precision (`a8`), and those of a packed checkpoint (`w4a8`)."""
    exact = {layer.name: resolve_module(transformer, layer.path)["weight"] for layer in layers}
    ways = {"a8": exact}
    if packed:
        checkpoint = read_packed(packed)
        codes = {layer.name: find_packed_weight(checkpoint, layer.path) for layer in list_packed(layers, checkpoint)}
        ways["w4a8"] = exact | codes
    return ways


def list_biases(transformer: Any) -> dict[str, mx.array | None]:
    """Biases of all layers by name."""
    return {layer.name: resolve_bias(transformer, layer) for layer in list_layers(transformer)}


def observe(
    transformer: Any,
    layers: list,
    calibration: Calibration,
    encodings: list[np.ndarray],
    indices: np.ndarray,
    levels: list[int],
    observations: Observations,
) -> None:
    """Add the points at `indices` to the observations of every layer input."""
    order = np.lexsort((indices, calibration.read("steps")[indices]))
    points, linear = read_points(calibration, indices[order]), bind_linears(transformer)
    for batch in list_batches(points.steps, 64):
        place = levels.index(int(points.steps[batch.start]))
        prompts, places = np.unique(points.prompt_indices[batch], return_inverse=True)
        own = [part[prompts] for part in encodings]
        rows = assemble_batch(points.xs[batch], places, float(points.ts[batch.start]), *own)
        for name, reduced in observe_batch(transformer, linear, layers, rows):
            if name not in observations:
                observations[name] = [create_observation(len(reduced.channels.mean)) for _ in levels]
            observations[name][place] = add_batch(observations[name][place], reduced.channels, reduced.sample)


def list_quantizers(layers: list, observations: Observations) -> dict[str, InputQuantizer]:
    """Quantizers by layer name of the inputs of the blocks, that cover the observed ranges at each noise level."""
    described = {name: describe_input(name, steps) for name, steps in observations.items()}
    quantizers = {}
    for layer in (layer for layer in layers if layer.block and layer.role != "adaLN"):
        numbers, arrays = described[layer.input]
        shift = arrays.get(f"{layer.input}/shift")
        ranges = compute_ranges(numbers["per_step"], "absmax", shift is not None)
        quantizers[layer.name] = InputQuantizer("lut", BITS, compute_step(ranges, BITS), shift)
    return quantizers


def summarise(found: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Step sizes of each count over those of the largest, and SNR of the pictures with differences to it."""
    last, rows = found[-1], []
    for entry in found:
        ratios = np.concatenate([entry["steps"][name] / last["steps"][name] for name in last["steps"]])
        row: dict[str, Any] = {"points": entry["points"], "step_over_last": describe(ratios)}
        row |= {way: entry[way] for way in ("a8", "w4a8") if way in entry}
        rows.append(row)
    return {"model": arguments.model, "pictures": arguments.pictures, "steps": STEPS, "cfg": GUIDANCE, "counts": rows}


def describe(values: np.ndarray) -> dict[str, float]:
    """Median, and the lowest and highest 5 %."""
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {"p5": float(low), "median": float(middle), "p95": float(high)}


if __name__ == "__main__":
    parser = build_parser(__doc__, "results", "out")
    parser.add_argument("--model", choices=["embedded", "embedded-hard"], default="embedded")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[64, 128, 256, 512, 1600, 6400], help="points, ascending"
    )
    parser.add_argument("--drawn", type=int, nargs="+", default=[64, 512, 6400], help="counts to draw pictures with")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--packed", action="store_true", help="also with the run's packed weights")
    run(main, parser)
