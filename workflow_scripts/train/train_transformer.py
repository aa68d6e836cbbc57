"""Train the text model and the transformer of the embedded model together."""

import argparse

import numpy as np
import torch
from torch import Tensor

from taqmlx.models.embedded import load_tokenizer
from taqmlx.runtime.entry import build_parser, run
from taqmlx.training.flow import TextToImage, caption_scenes, measure_flow_loss
from taqmlx.training.loop import optimise
from taqmlx.training.pool import open_pool
from taqmlx.training.recipe import TRANSFORMER


def train_transformer(arguments: argparse.Namespace) -> None:
    torch.manual_seed(TRANSFORMER.seed)
    tokenizer = load_tokenizer()
    model = TextToImage(len(tokenizer))
    scenes, _ = open_pool(arguments.pool)
    latents = torch.from_numpy(np.load(arguments.latents, allow_pickle=False))

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(latents), (TRANSFORMER.batch,), generator=generator)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        tokens = caption_scenes(scenes[rows.numpy()], tokenizer, seed)
        return measure_flow_loss(model, latents[rows].float(), tokens, generator)

    optimise(model, loss_of, TRANSFORMER, arguments.out, "transformer")


if __name__ == "__main__":
    run(train_transformer, build_parser(__doc__, "pool", "latents", "out"))
