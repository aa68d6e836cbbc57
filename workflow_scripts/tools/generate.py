"""Generate images for prompts, in full precision or quantized; several form a grid with captions."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from PIL import Image

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.packed import bind_packed
from taqmlx.mmdit.sampling import LinearAt, sample
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model, warn_of_dropped_text
from taqmlx.models.protocol import Model
from taqmlx.models.quantized_source import (
    Source,
    describe_precision,
    describe_source,
    open_source,
    tabulate_differences,
)
from taqmlx.numerics.schedule import draw_noise
from taqmlx.numerics.sigma_lookup import DEFAULT_LOOKUP, LOOKUPS
from taqmlx.planning import plan
from taqmlx.planning.config_relations import LARGEST_SEED
from taqmlx.planning.layers import Layer
from taqmlx.planning.prompts import read_prompts
from taqmlx.plots.compared_pictures import compose, compose_pairs, save, summarize
from taqmlx.runtime.entry import Progress, build_parser, log, run
from taqmlx.runtime.model_options import add_model_options, choose_options
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_atomically

FULL_PRECISION = "full precision"
GUIDANCE = 3.0


# Binds the linears of a transformer.
Bind = Callable[[Any], LinearAt]


def main(arguments: argparse.Namespace) -> None:
    model = find_model(arguments.model, choose_options(arguments), arguments.weights_from)
    arguments.cfg = choose_guidance(arguments)
    prompts = list_prompts(arguments)
    check_arguments(arguments, model)
    warn_of_dropped_text(model, list(filter(None, [*prompts, arguments.negative_prompt])))
    layers = plan.list_layers(arguments.model)
    chosen = [layer for layer in layers if arguments.blocks is None or layer.block in arguments.blocks]
    source = open_source(arguments.weights, arguments.quant_config, model, chosen)
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
    log.info(summarize(arguments.out, pictures, latents))


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
        (arguments.steps >= 1, f"--steps {arguments.steps}: must be at least 1"),
        (0 < arguments.cfg < float("inf"), f"--cfg {arguments.cfg:g}: must be above 0"),
        (0 <= arguments.seed <= LARGEST_SEED, f"--seed {arguments.seed}: must be 0 to {LARGEST_SEED}"),
        (
            asked == (height, width),
            f"{' '.join(given)}: the model {arguments.model} draws {width} x {height} pixels only; leave it out",
        ),
        (not unknown, f"--blocks: no block {', '.join(unknown)}; choose from {', '.join(blocks)}"),
        (is_quantized or not needs, f"{'/'.join(needs)}: name what to quantize with --weights or --quant-config"),
        (is_picture_name(arguments.out), f"--out {arguments.out}: must be a name like picture.png"),
    ]
    for holds, reason in checks:
        if not holds:
            raise UserError(reason)


def is_picture_name(path: Path) -> bool:
    """True if Pillow can write an image with this file name."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


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


def split_names(value: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in value.split(",")]


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = build_parser(__doc__, "out")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", action="append", metavar="TEXT", help="prompt; repeat for more images")
    text.add_argument("--prompts-file", type=Path, metavar="FILE", help="UTF-8 text file with one prompt per line")
    parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="negative prompt (default: empty)")
    add_model_options(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first image; the next has N + 1")
    parser.add_argument("--steps", type=int, default=28, metavar="N", help="Euler steps (default: %(default)s)")
    parser.add_argument(
        "--cfg", type=float, metavar="WEIGHT", help=f"guidance (default: {GUIDANCE:g}; flux-schnell: none)"
    )
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="quantize weights: results/quantized")
    parser.add_argument(
        "--quant-config", type=Path, metavar="FILE", help="and inputs, simulated: results/quant_config.json"
    )
    parser.add_argument(
        "--lookup",
        choices=LOOKUPS,
        default=DEFAULT_LOOKUP,
        metavar="WAY",
        help=f"between noise levels: {', '.join(LOOKUPS)}",
    )
    parser.add_argument("--blocks", type=split_names, metavar="NAMES", help="quantize only these: mm_00,mm_03")
    parser.add_argument("--compare", action="store_true", help="add full precision, with PSNR and latent SNR")
    parser.add_argument("--diff-stats", action="store_true", help="print the error of each quantized weight")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
