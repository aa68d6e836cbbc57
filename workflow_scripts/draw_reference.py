"""Draw the real pictures the embedded model's are compared with: scenes of combinations kept out of its training."""

import argparse

import numpy as np
from PIL import Image

from workflow_scripts import plan
from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import read_json
from workflow_scripts.training.captions import sample_scene
from workflow_scripts.training.pictures import draw_scene

PER_PICTURE, ENOUGH = 4, 4096  # so that the reference adds little to the error of what is compared with it


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params)
    if parameters["model"] != plan.EMBEDDED:
        raise UserError(f"reference_pictures: none can be drawn for {parameters['model']}; name a folder of pictures")
    pictures = parameters["evaluation_pictures"]
    count = max(pictures, min(PER_PICTURE * pictures, ENOUGH))
    # A stream of its own: captions are drawn from (seed, 1) and (seed, 2).
    rng = np.random.default_rng((parameters["evaluation_seed"], 3))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = sample_scene(rng, 1 + index % 2, held_out=True)
        Image.fromarray(draw_scene(rng, scene)).save(arguments.out / f"{index:06d}.png")
    log.info(f"{count} pictures of the generator: {arguments.out}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "out"))
