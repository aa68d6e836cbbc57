"""Generate images for prompts, in full precision or quantized.

Image i starts from the noise of `--seed` + i. A single image is written without a caption; several images, or pairs
with --compare, form a grid with captions. --weights quantizes the weights; --quant-config also quantizes the
activations, in simulation: rounded to the quantizer's grid and computed in floating point.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.packed import bind_packed, list_packed, name_precision, restore_weight
from taqmlx.mmdit.sampling import LinearAt, sample
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model, warn_of_dropped_text
from taqmlx.models.protocol import Model
from taqmlx.numerics.quality import compare_weights, measure_psnr, measure_snr
from taqmlx.numerics.schedule import draw_noise
from taqmlx.numerics.sigma_lookup import DEFAULT_LOOKUP, LOOKUPS
from taqmlx.planning import plan
from taqmlx.planning.config_relations import LARGEST_SEED
from taqmlx.planning.layers import Layer
from taqmlx.planning.prompts import read_prompts
from taqmlx.plots.picture_grid import draw_grid
from taqmlx.runtime.entry import Progress, build_parser, log, run
from taqmlx.runtime.model_options import add_model_options, choose_options
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_atomically
from taqmlx.store.packed_checkpoint import PackedCheckpoint, read_packed
from taqmlx.store.quant_config import QuantConfig, read_quant_config

FULL_PRECISION = "full precision"
GUIDANCE = 3.0
GRID_COLUMNS = 4  # even, so that pairs stay side by side


# Binds the linears of a transformer.
Bind = Callable[[Any], LinearAt]


class Source(NamedTuple):
    """Source of quantized layers: the checkpoint, the config if there is one, and the layers to quantize."""

    checkpoint: PackedCheckpoint
    config: QuantConfig | None
    layers: list[Layer]


def main(arguments: argparse.Namespace) -> None:
    model = find_model(arguments.model, choose_options(arguments), arguments.weights_from)
    arguments.cfg = choose_guidance(arguments)
    prompts = list_prompts(arguments)
    check_arguments(arguments, model)
    warn_of_dropped_text(model, list(filter(None, [*prompts, arguments.negative_prompt])))
    layers = plan.list_layers(arguments.model)
    source = open_source(arguments, model, layers)
    variants: dict[str, Bind] = {FULL_PRECISION: bind_exact}
    if source:
        if arguments.diff_stats:
            log.info("\n".join(tabulate_differences(source, model.load_transformer())))
        name = describe_precision(source)
        log.info(describe_source(name, source, len(layers)))
        variants = (variants if arguments.compare else {}) | {name: partial(bind_quantized, arguments, source, layers)}
    latents = sample_variants(arguments, model, variants, prompts)
    decoder = model.load_decoder()
    pictures = {name: model.decode_latents(decoder, rows) for name, rows in latents.items()}
    image = compose_pairs(pictures, latents, prompts) if arguments.compare else compose(*pictures.values(), prompts)
    write_atomically(arguments.out, partial(save, image, describe_picture(arguments, prompts, source)))
    log.info(summarise(arguments.out, pictures, latents))


def describe_picture(arguments: argparse.Namespace, prompts: list[str], source: Source | None) -> dict[str, str]:
    """How the image was made, for its metadata: prompts, seed, steps, guidance, model and sha256 of packed weights."""
    facts = {
        "prompt": "\n".join(prompts),
        "negative_prompt": arguments.negative_prompt,
        "seed": str(arguments.seed),
        "steps": str(arguments.steps),
        "cfg": f"{arguments.cfg:g}",
        "model": arguments.model,
    }
    return facts | ({"weights_sha256": source.checkpoint.config["model"]["sha256"]} if source else {})


def save(image: Image.Image, facts: dict[str, str], path: Path) -> None:
    """Write the image; a PNG file carries `facts` as text."""
    about = PngInfo()
    for key, value in facts.items():
        about.add_itxt(key, value)
    image.save(path, pnginfo=about)  # other formats ignore it


def bind_exact(transformer: Transformer) -> LinearAt:
    """The linears in full precision."""
    exact = bind_linears(transformer)
    return lambda sigma: exact


def bind_quantized(
    arguments: argparse.Namespace, source: Source, layers: Sequence[Layer], transformer: Transformer
) -> LinearAt:
    """The linears quantized by `source`; the others in full precision."""
    return bind_packed(transformer, layers, source.layers, source.checkpoint, source.config, arguments.lookup).at


def list_prompts(arguments: argparse.Namespace) -> list[str]:
    """The prompts of the command line or of the file. Raises UserError if the file is unusable."""
    if arguments.prompt is not None:
        return arguments.prompt
    try:
        return read_prompts(arguments.prompts_file)
    except ValueError as error:
        raise UserError(str(error)) from None


def choose_guidance(arguments: argparse.Namespace) -> float:
    """The requested guidance weight, or the usual one of the model.

    Raises UserError if guidance or a negative prompt is given for a model without guidance.
    """
    if arguments.model not in plan.UNGUIDED:
        return GUIDANCE if arguments.cfg is None else arguments.cfg
    if arguments.cfg not in (None, plan.NO_GUIDANCE) or arguments.negative_prompt:
        raise UserError(
            f"--cfg/--negative-prompt: {arguments.model} draws without guidance and reads no negative prompt;"
            " leave both out"
        )
    return plan.NO_GUIDANCE


def check_arguments(arguments: argparse.Namespace, model: Model) -> None:
    """Raise UserError, naming the option, for an invalid request or an --out that is not an image file name."""
    is_quantized = arguments.weights is not None or arguments.quant_config is not None
    blocks = plan.list_block_names(arguments.model)
    unknown = sorted(set(arguments.blocks or []) - set(blocks))
    needs = [f"--{name.replace('_', '-')}" for name in ("compare", "diff_stats", "blocks") if getattr(arguments, name)]
    height, width = model.PICTURE_SHAPE
    given = [
        f"--{name} {side}" for name in ("size", "height", "width") if (side := getattr(arguments, name)) is not None
    ]
    asked = arguments.height or arguments.size or height, arguments.width or arguments.size or width
    checks = [
        (arguments.steps >= 1, f"--steps {arguments.steps}: needs at least 1"),
        (0 < arguments.cfg < float("inf"), f"--cfg {arguments.cfg:g}: needs a number above 0"),
        (0 <= arguments.seed <= LARGEST_SEED, f"--seed {arguments.seed}: needs 0 to {LARGEST_SEED}"),
        (
            asked == (height, width),
            f"{' '.join(given)}: the model {arguments.model} draws {width} x {height} pixels only; leave it out",
        ),
        (not unknown, f"--blocks: no block {', '.join(unknown)}; choose from {', '.join(blocks)}"),
        (is_quantized or not needs, f"{'/'.join(needs)}: name what to quantize with --weights or --quant-config"),
        (is_picture_name(arguments.out), f"--out {arguments.out}: needs a name like picture.png"),
    ]
    for holds, reason in checks:
        if not holds:
            raise UserError(reason)


def is_picture_name(path: Path) -> bool:
    """True if Pillow can write an image with this file name."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


def open_source(arguments: argparse.Namespace, model: Model, layers: Sequence[Layer]) -> Source | None:
    """The source of quantized layers, or None. Raises UserError if it is missing, damaged or of another model."""
    config = read_quant_config(arguments.quant_config) if arguments.quant_config else None
    folder = arguments.weights or (config and config.weights.parent)
    if folder is None:
        return None
    checkpoint = read_packed(folder)
    if config and checkpoint.config["model"]["sha256"] != config.content["weights"]["sha256"]:
        raise UserError(f"{folder} is not what {arguments.quant_config} was made with; leave --weights out")
    if checkpoint.config["origin"]["model"] != model.file_digests():
        raise UserError(f"{folder} was made of other weights than those of the model {arguments.model}; make it again")
    return Source(checkpoint, config, [x for x in layers if arguments.blocks is None or x.block in arguments.blocks])


def describe_precision(source: Source) -> str:
    """The bits of most quantized weights and of their inputs, as W4A8."""
    packed = list_packed(source.layers, source.checkpoint)
    inputs = [source.config.find_input(layer.name).bits for layer in packed if source.config]
    return name_precision([source.checkpoint.find_bits(layer.path) for layer in packed], inputs)


def describe_source(name: str, source: Source, count: int) -> str:
    """One line: the quantized layers and which part is simulated."""
    packed = len(list_packed(source.layers, source.checkpoint))
    line = f"{name}: weights of {packed} of {count} linear layers from {source.checkpoint.path}; activations "
    if source.config is None:
        return f"{line}in full precision"
    rounded = sum(source.config.layers[layer.name]["activation"]["policy"] != "none" for layer in source.layers)
    return f"{line}of {rounded} quantized, simulated in floating point"


def tabulate_differences(source: Source, transformer: Transformer) -> list[str]:
    """The lines of a table: error dW = W' - W of each quantized weight W' against the original W."""
    original = dict(tree_flatten(transformer.parameters()))
    lines = [f"{'layer':<34}{'bits':>5}{'group':>7}{'mean |dW|':>12}{'max |dW|':>12}{'|dW|2/|W|2':>13}"]
    for layer in list_packed(source.layers, source.checkpoint):
        weight = restore_weight(source.checkpoint, layer.path)
        found = compare_weights(weight, np.array(original[f"{layer.path}.weight"]))
        group = source.checkpoint.config["quantization"][layer.path]["group_size"]
        lines.append(
            f"{layer.name:<34}{source.checkpoint.find_bits(layer.path):>5}{group:>7}{found['mean']:>12.6f}"
            f"{found['max']:>12.6f}{found['relative_db']:>10.1f} dB"
        )
    return lines


def sample_variants(
    arguments: argparse.Namespace,
    model: Model,
    variants: dict[str, Bind],
    prompts: list[str],
) -> dict[str, mx.array]:
    """The final latents (n, h, w, c) of every variant by name, all from the same noise.

    Each variant loads its own transformer, which is freed before the next one's weights are read.
    """
    cs, cs_pooled = model.encode_prompts(prompts, arguments.negative_prompt)
    noise = draw_noise(range(arguments.seed, arguments.seed + len(prompts)), *model.LATENT_SHAPE)
    sigmas = model.compute_sigmas(arguments.steps)
    progress = Progress("sampling", len(variants) * len(prompts) * arguments.steps, "trajectory-steps")

    def draw(bind: Bind) -> mx.array:
        transformer = model.load_transformer()
        return sample(transformer, bind(transformer), cs, cs_pooled, noise, sigmas, arguments.cfg, progress.advance)

    return {name: draw(bind) for name, bind in variants.items()}


def compose(pictures: np.ndarray, prompts: list[str]) -> Image.Image:
    """A single image unchanged, several as a grid with their prompts."""
    if len(pictures) == 1:
        return Image.fromarray(pictures[0])
    return draw_grid(pictures, prompts, columns=min(GRID_COLUMNS, len(pictures)))


def compose_pairs(pictures: dict[str, np.ndarray], latents: dict[str, mx.array], prompts: list[str]) -> Image.Image:
    """A grid of full-precision images beside their quantized counterparts, with error measures."""
    (exact, name), captions = pictures, []
    for i, prompt in enumerate(prompts):
        row = slice(i, i + 1)
        measured = measure_twins({k: v[row] for k, v in pictures.items()}, {k: v[row] for k, v in latents.items()})
        captions += [f"{exact}\n{prompt}", "\n".join([name, *measured])]
    pairs = np.stack(list(pictures.values()), axis=1)  # (n, 2, h, w, 3)
    return draw_grid(pairs.reshape(-1, *pairs.shape[2:]), captions, columns=min(GRID_COLUMNS, 2 * len(prompts)))


def measure_twins(pictures: dict[str, np.ndarray], latents: dict[str, mx.array]) -> list[str]:
    """PSNR and latent SNR of the quantized images against full precision, over all of them."""
    (exact, quantized), (reference, found) = pictures.values(), map(np.array, latents.values())
    return [f"PSNR {measure_psnr(quantized, exact):.1f} dB", f"latent SNR {measure_snr(found, reference):.1f} dB"]


def summarise(out: Path, pictures: dict[str, np.ndarray], latents: dict[str, mx.array]) -> str:
    """One line: what was written and, for pairs, the error measures."""
    count = len(next(iter(pictures.values())))
    line = f"{count} picture{'s' * (count > 1)}, {' and '.join(pictures)}, in {out}"
    return f"{line}: {', '.join(measure_twins(pictures, latents))}" if len(pictures) > 1 else line


def split_names(value: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in value.split(",")]


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__, "out")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", action="append", help="prompt; repeat for more images")
    text.add_argument("--prompts-file", type=Path, help="UTF-8 text file with one prompt per line")
    parser.add_argument("--negative-prompt", default="", help="negative prompt (default: empty)")
    add_model_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=28, help="Euler steps (default: %(default)s)")
    parser.add_argument("--cfg", type=float, help=f"guidance weight (default: {GUIDANCE:g}; flux-schnell has none)")
    parser.add_argument("--weights", type=Path, help="packed checkpoint, such as results/quantized")
    parser.add_argument("--quant-config", type=Path, help="quantization config, such as results/quant_config.json")
    parser.add_argument(
        "--lookup",
        choices=LOOKUPS,
        default=DEFAULT_LOOKUP,
        help="step sizes between calibrated noise levels (default: %(default)s)",
    )
    parser.add_argument("--blocks", type=split_names, help="quantize only these blocks, such as mm_00,mm_03")
    parser.add_argument("--compare", action="store_true", help="add full precision, with PSNR and latent SNR")
    parser.add_argument("--diff-stats", action="store_true", help="print the error of each quantized weight")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
