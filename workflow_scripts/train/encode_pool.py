"""Encode the pool's images to latents, the training data of the transformer."""

import argparse

import numpy as np
import torch
from safetensors.torch import load_file

from taqmlx.models.embedded import AUTOENCODER
from taqmlx.runtime.entry import Progress, build_parser, run
from taqmlx.store.checksum_files import checksummed
from taqmlx.store.files import write_atomically
from taqmlx.training.autoencoder import Autoencoder
from taqmlx.training.loop import split_batches
from taqmlx.training.pool import open_pool, to_tensor
from taqmlx.training.recipe import LATENT_POOL, THREADS

BATCH = 128


def encode_pool(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(THREADS)
    model = Autoencoder()
    model.load_state_dict(load_file(arguments.autoencoder))
    model.eval()
    _, pictures = open_pool(arguments.pool)
    pictures = pictures[:LATENT_POOL]
    latents = np.empty((len(pictures), AUTOENCODER["latent_channels"], 8, 8), np.float16)
    progress = Progress("encoding", len(pictures), "pictures")
    for rows in split_batches(len(pictures), BATCH):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            latents[rows] = model.encode(to_tensor(pictures[rows])).half().numpy()
        progress.advance(rows.stop - rows.start)
    with checksummed(arguments.out):
        write_atomically(arguments.out, lambda partial: np.save(partial, latents))


if __name__ == "__main__":
    run(encode_pool, build_parser(__doc__, "pool", "autoencoder", "out"))
