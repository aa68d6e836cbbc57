"""Command-line options that select a model, for commands without a parameter file."""

import argparse

from taqmlx.planning import plan
from taqmlx.planning.configuration import load_schema
from taqmlx.planning.stage_groups import ModelOptions


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and the options of its weights, text encoder and image shape."""
    parts = load_schema()["properties"]["hardness"]["default"]
    parser.add_argument("--model", choices=plan.MODEL_BLOCKS, default="embedded", help="default: %(default)s")
    parser.add_argument(
        "--weights-from",
        help="Hub repository, folder or file (default: the Hub; ignored for --model embedded and embedded-hard)",
    )
    parser.add_argument(
        "--without-t5", action="store_true", help="encode prompts with CLIP only (sd3-medium and sd3.5-large)"
    )
    parser.add_argument("--hardness", nargs="*", choices=parts, help="outliers of embedded-hard (default: all)")
    parser.add_argument("--size", type=int, help="height and width in pixels (default: the model's)")
    parser.add_argument("--height", type=int, help="height alone, in pixels; also after --size")
    parser.add_argument("--width", type=int, help="the same of the width")


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
