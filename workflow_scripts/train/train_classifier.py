"""Train the attribute classifier of the embedded model."""

import argparse

import torch
from torch import Tensor

from taqmlx.runtime.entry import build_parser, run
from taqmlx.training.classifier import Classifier, measure_classifier_loss, soften_pictures
from taqmlx.training.loop import optimise
from taqmlx.training.pool import open_pool, sample_pictures
from taqmlx.training.recipe import CLASSIFIER


def train_classifier(arguments: argparse.Namespace) -> None:
    torch.manual_seed(CLASSIFIER.seed)
    model = Classifier()
    scenes, pictures = open_pool(arguments.pool)

    def loss_of(generator: torch.Generator) -> Tensor:
        batch, rows = sample_pictures(pictures, CLASSIFIER.batch, generator)
        return measure_classifier_loss(model(soften_pictures(batch, generator)), torch.from_numpy(scenes[rows]).long())

    optimise(model, loss_of, CLASSIFIER, arguments.out, "classifier")


if __name__ == "__main__":
    run(train_classifier, build_parser(__doc__, "pool", "out"))
