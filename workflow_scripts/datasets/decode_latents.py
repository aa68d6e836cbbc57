"""Decode final latents, `.npy` files in the decoder's space, to `.png` images of the same names.

Such files already include the sampler's scale and shift (DiffusionKit's `process_out`), so they go to the decoder
unchanged: a second scaling gives pale images.
"""

import argparse
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image

from taqmlx.models.catalogue import find_model
from taqmlx.planning.stages import CollectShard
from taqmlx.runtime.entry import Progress, build_parser, log, run
from taqmlx.store.checksum_files import write_checksummed_folder
from taqmlx.store.errors import UserError
from taqmlx.store.original_layout import read_latents
from taqmlx.store.parameters import read_parameters

BATCH = 16


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(CollectShard, arguments.params)
    model = find_model(parameters.model, parameters)
    paths = sorted(arguments.latents.glob("*.npy"))
    if not paths:
        raise UserError(f"{arguments.latents} has no .npy file; run export_latents first")
    decoder, progress = model.load_decoder(), Progress("decode", len(paths), "pictures")

    def fill(folder: Path) -> None:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            latents = np.stack([read_checked(path, model.LATENT_SHAPE) for path in batch])
            for path, picture in zip(batch, model.decode_processed(decoder, mx.array(latents)), strict=True):
                Image.fromarray(picture).save(folder / f"{path.stem}.png")
            progress.advance(len(batch))

    write_checksummed_folder(arguments.out, fill)
    log.info(f"decoded {len(paths)} pictures: {arguments.out}")


def read_checked(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The latents in `path`. Raises UserError unless they are finite and have shape (h, w, c)."""
    latents = read_latents(path)
    if latents.shape != shape or not np.isfinite(latents).all():
        raise UserError(f"{path} has latents of shape {latents.shape}, or NaN; finite ones of {shape} are decoded")
    return latents


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "latents", "out"))
