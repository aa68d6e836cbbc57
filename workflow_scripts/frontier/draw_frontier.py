"""Generate the frontier's images, of held-out captions, for one model after another; compare each with full precision.

Without `--family` or `--quant-config` the full-precision latents are written. `--family` selects `nn.quantize`
settings; `--quant-config` gives a config's weights alone, then its weights and inputs.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import LinearAt, sample
from taqmlx.mmdit.transformer import Transformer
from taqmlx.mmdit.variant_sizes import measure_variant
from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.numerics.quality import measure_snr
from taqmlx.numerics.schedule import draw_noise
from taqmlx.planning import plan
from taqmlx.planning.evaluation_documents import EvaluationPrompt, PictureRow
from taqmlx.planning.evaluation_stages import MeasureFrontier
from taqmlx.planning.plain_ways import FAMILIES, list_plain
from taqmlx.reconstruction.plain_rounding import bind_plain
from taqmlx.reconstruction.variant_linears import bind_source
from taqmlx.runtime.entry import Progress, build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.evaluation_prompts import read_evaluation_prompts
from taqmlx.store.files import hash_file, write_json
from taqmlx.store.frontier_file import PICTURES
from taqmlx.store.parameters import read_parameters
from taqmlx.store.tensors import read_sealed_tensors, write_sealed_tensors

EXACT = 150.0  # dB; cap for equal latents: no unequal fp32 values reach it, and JSON has no infinity


class Way(NamedTuple):
    """A quantized model: its name and title, its linears, and the bits per weight over all of them."""

    name: str
    title: str
    linear_at: LinearAt
    bits_per_weight: float


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(MeasureFrontier, arguments.params)
    evaluation = read_evaluation_prompts(arguments.prompts)
    model = find_model(parameters.model, parameters)
    transformer = model.load_transformer()
    pictures = evaluation["pictures"][: parameters.frontier_pictures]
    about = {"parameters": parameters.encode(), "pictures": plan.fingerprint(pictures), "model": model.file_digests()}
    cs, pooled, noise, sigmas = start_pictures(parameters, model, evaluation["prompts"], pictures)
    cfg, steps = parameters.evaluation_cfg, parameters.evaluation_steps
    if not (arguments.family or arguments.quant_config):
        exact = bind_linears(transformer)
        progress = Progress("full precision", len(pictures) * steps, "trajectory-steps")
        latents = sample(transformer, lambda sigma: exact, cs, pooled, noise, sigmas, cfg, progress.advance)
        write_sealed_tensors(arguments.out, {"latents": np.array(latents)}, about)
        return
    reference, found = read_sealed_tensors(arguments.reference)
    if difference := plan.describe_difference(found, about):
        raise UserError(f"{arguments.reference} was made with other pictures ({difference}); delete it and run again")
    ways = []
    for way in list_ways(arguments, transformer):
        progress = Progress(way.title, len(pictures) * steps, "trajectory-steps")
        drawn = sample(transformer, way.linear_at, cs, pooled, noise, sigmas, cfg, progress.advance)
        pairs = zip(np.array(drawn), reference["latents"], strict=True)
        ratios = [min(measure_snr(one, other), EXACT) for one, other in pairs]
        ways.append({"name": way.name, "title": way.title, "bits_per_weight": way.bits_per_weight, "ratios": ratios})
        log.info(f"{way.title}: {way.bits_per_weight:.2f} bits per weight, median {np.median(ratios):.2f} dB")
    source = {path.name: hash_file(path) for path in arguments.quant_config[:1]}
    write_json(arguments.out, PICTURES | about | {"source": source, "ways": ways})


def start_pictures(
    parameters: MeasureFrontier, model: Model, prompts: list[EvaluationPrompt], pictures: list[PictureRow]
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Arguments of `sample`: cs and cs_pooled of each image's prompt, its noise, and the noise levels."""
    texts = [prompts[picture["prompt"]]["text"] for picture in pictures]
    noise = draw_noise([picture["seed"] for picture in pictures], *model.LATENT_SHAPE)
    encodings = model.encode_prompts(texts, parameters.negative_prompt)
    return encodings[0], encodings[1], noise, model.compute_sigmas(parameters.evaluation_steps)


def list_ways(arguments: argparse.Namespace, transformer: Transformer) -> Iterator[Way]:
    """Yield the models of a family of `nn.quantize` settings, or of a quantization config."""
    if arguments.family:
        for plain in list_plain(arguments.family):
            name = f"plain_{plain.modulation_bits}_{plain.bits}_g{plain.group_size}"
            yield Way(name, plain.title, *bind_plain(transformer, plain))
        return
    config, model, layout = arguments.quant_config
    for name, source, files in (("w_a16", "weights", [model, layout]), ("w_a8", "quant_config", [config, model])):
        size = measure_variant(transformer, source, files)
        read = "inputs unrounded" if source == "weights" else f"inputs of {min(size['activation_bits'])} bits"
        yield Way(name, f"learned, {read}", bind_source(transformer, source, files), size["bits_per_weight"])


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "prompts", "out")
    parser.add_argument("--reference", type=Path, help="full-precision latents to compare with")
    parser.add_argument("--family", choices=FAMILIES, help="family of nn.quantize settings")
    parser.add_argument(
        "--quant-config", type=Path, nargs=3, default=[], help="the config, its model.safetensors and its config.json"
    )
    run(main, parser)
