"""Export the trained parts of the embedded model as fp16 files."""

import argparse

from safetensors.torch import load_file

from taqmlx.runtime.entry import build_parser, run
from taqmlx.training.autoencoder import Autoencoder, fold_latent_scale
from taqmlx.training.export import export_weights
from taqmlx.training.loop import select
from taqmlx.training.recipe import LATENT_NOISE


def export_embedded_model(arguments: argparse.Namespace) -> None:
    joint = load_file(arguments.transformer)
    autoencoder = Autoencoder()
    autoencoder.load_state_dict(load_file(arguments.autoencoder))
    parts = {
        "transformer": select(joint, "transformer."),
        "text_encoder": select(joint, "text_encoder."),
        "autoencoder": fold_latent_scale(autoencoder, LATENT_NOISE),
        "classifier": load_file(arguments.classifier),
    }
    for name, weights in parts.items():
        export_weights(weights, arguments.out_dir / f"{name}.safetensors")


if __name__ == "__main__":
    run(export_embedded_model, build_parser(__doc__, "autoencoder", "classifier", "transformer", "out-dir"))
