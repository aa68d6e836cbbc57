"""Sample the final latents of one rung of the ladder, from quantized blocks or a packed model."""

import argparse
from pathlib import Path

import numpy as np

from taqmlx.evaluation.ladder_pictures import start_pictures
from taqmlx.mmdit.sampling import sample
from taqmlx.models.catalogue import find_model
from taqmlx.planning.stages import SampleRung
from taqmlx.reconstruction.variant_linears import bind_source
from taqmlx.runtime.entry import Progress, add_folds, build_parser, log, run
from taqmlx.store.conditioning import open_conditioning
from taqmlx.store.parameters import read_parameters
from taqmlx.store.tensors import write_sealed_tensors


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(SampleRung, arguments.params)
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    transformer = model.load_transformer()
    source, files = ("blocks", arguments.blocks) if arguments.blocks else ("quant_config", [arguments.quant_config])
    linear_at = bind_source(transformer, source, files)
    start = start_pictures(parameters, model, open_conditioning(arguments.conditioning, parameters.encode()))
    count, steps = parameters.ladder_pictures, parameters.ladder_steps
    progress = Progress(arguments.out.parent.name, count * steps, "trajectory-steps")
    latents = sample(transformer, linear_at, *start, parameters.cfg_scale, progress.advance)
    write_sealed_tensors(arguments.out, {"latents": np.array(latents)}, {"rung": arguments.out.parent.name})
    log.info(f"{count} pictures of {steps} steps: {arguments.out}")


if __name__ == "__main__":
    parser = add_folds(build_parser(__doc__, "params", "conditioning", "out"))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--blocks", type=Path, nargs="+", help="block files of the rung")
    source.add_argument("--quant-config", type=Path, help="quantization config of a packed model")
    run(main, parser)
