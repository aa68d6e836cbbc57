"""Draw the pictures that compare the rungs of the ladder, as final latents, by quantized blocks or a packed model."""

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from workflow_scripts import plan
from workflow_scripts.entry import Progress, build_parser, log, run
from workflow_scripts.mmdit.block_linears import bind_blocks
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.mmdit.packed import bind_packed
from workflow_scripts.mmdit.quantized import QuantizedLinears
from workflow_scripts.mmdit.sampling import sample
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.numerics.schedule import compute_sigmas, draw_noise
from workflow_scripts.store.block_file import read_block
from workflow_scripts.store.conditioning import open_conditioning
from workflow_scripts.store.files import read_json
from workflow_scripts.store.packed_checkpoint import read_packed
from workflow_scripts.store.quant_config import read_quant_config
from workflow_scripts.store.tensors import write_tensors


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params)
    model = find_model(parameters["model"])
    transformer = model.load_transformer()
    linears = bind_linears(arguments, transformer, parameters)
    conditioning = open_conditioning(arguments.conditioning, parameters)
    count, prompts = parameters["ladder_pictures"], len(parameters["prompts"])
    cs, cs_pooled = map(mx.array, conditioning.read([index % prompts for index in range(count)]))
    first = parameters["seed"] + parameters["trajectories"]
    noise = draw_noise(range(first, first + count), *model.LATENT_SHAPE)
    sigmas = compute_sigmas(parameters["ladder_steps"], model.SAMPLER_SHIFT)
    progress = Progress(arguments.out.parent.name, count * parameters["ladder_steps"], "trajectory-steps")
    latents = sample(transformer, linears.at, cs, cs_pooled, noise, sigmas, parameters["cfg_scale"], progress.advance)
    write_tensors(arguments.out, {"latents": np.array(latents)})
    log.info(f"{count} pictures of {parameters['ladder_steps']} steps: {arguments.out}")


def bind_linears(arguments: argparse.Namespace, transformer: Any, parameters: plan.Parameters) -> QuantizedLinears:
    """The linears of the rung's blocks, or of the quantization config with its packed weights."""
    if arguments.blocks:
        return bind_blocks(transformer, [read_block(path) for path in arguments.blocks])
    config = read_quant_config(arguments.quant_config)
    layers = list_linears(*plan.MODEL_BLOCKS[parameters["model"]])
    return bind_packed(transformer, layers, layers, read_packed(config.weights.parent), config, "nearest")


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "conditioning", "out")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--blocks", type=Path, nargs="+", help="the rung's block files")
    source.add_argument("--quant-config", type=Path, help="or a quantization config")
    run(main, parser)
