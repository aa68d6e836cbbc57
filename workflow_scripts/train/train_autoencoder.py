"""Train the autoencoder of the embedded model."""

import argparse

import torch
from torch import Tensor

from taqmlx.models.embedded import SD3_SCALE, SD3_SHIFT
from taqmlx.runtime.entry import build_parser, run
from taqmlx.training.autoencoder import Autoencoder, compare_pictures
from taqmlx.training.loop import optimise
from taqmlx.training.pool import open_pool, sample_pictures
from taqmlx.training.recipe import AUTOENCODER, LATENT_NOISE


def train_autoencoder(arguments: argparse.Namespace) -> None:
    torch.manual_seed(AUTOENCODER.seed)
    model = Autoencoder()
    _, pictures = open_pool(arguments.pool)

    def loss_of(generator: torch.Generator) -> Tensor:
        batch, _ = sample_pictures(pictures, AUTOENCODER.batch, generator)
        latents = model.encode(batch)
        noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        return compare_pictures(model.decoder(noisy / SD3_SCALE + SD3_SHIFT).float(), batch)

    optimise(model, loss_of, AUTOENCODER, arguments.out, "autoencoder")


if __name__ == "__main__":
    run(train_autoencoder, build_parser(__doc__, "pool", "out"))
