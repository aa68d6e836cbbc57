"""Draw the training images of the embedded model."""

import argparse
from pathlib import Path

from taqmlx.runtime.entry import Progress, build_parser, run
from taqmlx.store.checksum_files import checksummed
from taqmlx.training.pool import PICTURES, SCENES, create_pool, draw_example
from taqmlx.training.recipe import POOL_SEED, POOL_SIZE


def draw_pool(arguments: argparse.Namespace) -> None:
    with checksummed(arguments.out / SCENES), checksummed(arguments.out / PICTURES):
        fill_pool(arguments.out)


def fill_pool(folder: Path) -> None:
    """Draw every scene of the pool."""
    scenes, pictures = create_pool(folder, POOL_SIZE)
    progress = Progress("drawing", POOL_SIZE, "pictures")
    for index in range(POOL_SIZE):
        scene, pictures[index] = draw_example(POOL_SEED, index)
        scenes[index] = tuple(scene.values())
        progress.advance()
    scenes.flush()
    pictures.flush()


if __name__ == "__main__":
    run(draw_pool, build_parser(__doc__, "out"))
