"""Command-line options that select a model, for commands without a parameter file."""

import argparse

from taqmlx.planning import plan
from taqmlx.planning.configuration import load_schema
from taqmlx.planning.stage_groups import ModelOptions


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and the options of its weights, text encoder and image shape."""
    parts = load_schema()["properties"]["hardness"]["default"]
    parser.add_argument(
        "--model", choices=plan.MODEL_BLOCKS, default="embedded", metavar="NAME", help=", ".join(plan.MODEL_BLOCKS)
    )
    parser.add_argument("--weights-from", metavar="PLACE", help="Hub repository, folder or file (default: the Hub)")
    parser.add_argument("--without-t5", action="store_true", help="encode with CLIP only (sd3-medium, sd3.5-large)")
    parser.add_argument("--hardness", nargs="*", choices=parts, metavar="PART", help="outliers of embedded-hard")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="height and width (default: the model's)")
    parser.add_argument("--height", type=int, metavar="PIXELS", help="height alone; also after --size")
    parser.add_argument("--width", type=int, metavar="PIXELS", help="width alone; also after --size")


def choose_options(arguments: argparse.Namespace) -> ModelOptions:
    """The model's options as given, else the configuration's defaults."""
    given = {
        "use_t5": False if arguments.without_t5 else None,
        "hardness": arguments.hardness,
        "height": arguments.height or arguments.size,
        "width": arguments.width or arguments.size,
    }
    described, keys = load_schema()["properties"], given.keys() & plan.MODEL_KEYS[arguments.model]
    return ModelOptions.take({key: described[key]["default"] if given[key] is None else given[key] for key in keys})
