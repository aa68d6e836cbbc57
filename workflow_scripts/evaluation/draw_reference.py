"""Generate the embedded model's real images, the reference of its evaluation: scenes of combinations held out from
training.

Their seal is written beside their folder.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from taqmlx.planning import plan
from taqmlx.planning.evaluation_stages import DrawReference
from taqmlx.planning.stage_demands import describe_missing_reference
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, write_folder, write_json
from taqmlx.store.parameters import read_parameters
from taqmlx.store.pictures import name_picture
from taqmlx.store.seal import make_seal
from taqmlx.training.captions import sample_scene
from taqmlx.training.pictures import draw_scene

PER_PICTURE, ENOUGH = 4, 4096  # enough for the reference to add little error to the distances


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(DrawReference, arguments.params)
    if parameters.model not in plan.EMBEDDED:
        raise UserError(describe_missing_reference(parameters.model))
    pictures = parameters.evaluation_pictures
    count = max(pictures, min(PER_PICTURE * pictures, ENOUGH))
    folder = arguments.out.with_suffix("")
    if not arguments.out.exists():  # images without a seal are from an interrupted run
        shutil.rmtree(folder, ignore_errors=True)
    write_folder(folder, lambda partial: draw_pictures(partial, count, parameters.evaluation_seed))
    digests = {path.name: [hash_file(path)] for path in (name_picture(folder, index) for index in range(count))}
    own = parameters.encode() | {"pictures": [[None, index] for index in range(count)]}
    write_json(arguments.out, make_seal(own, {}, digests))
    log.info(f"{count} pictures of the generator: {folder}")


def draw_pictures(folder: Path, count: int, seed: int) -> None:
    """Generate `count` images in `folder`."""
    rng = np.random.default_rng((seed, 3))  # a separate stream: captions use (seed, 1) and (seed, 2)
    for index in range(count):
        scene = sample_scene(rng, 1 + index % 2, held_out=True)
        Image.fromarray(draw_scene(rng, scene)).save(name_picture(folder, index))


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "out"))
