"""The options that name a model on the command line of an entry that has no parameter file."""

import argparse
from typing import Any

from taqmlx.planning import plan
from taqmlx.planning.configuration import load_schema


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--model` and what it is made of."""
    parser.add_argument("--model", choices=plan.MODEL_BLOCKS, default="embedded", help="default: %(default)s")
    parser.add_argument(
        "--weights-from", help="but for embedded: its Hub repository, a folder or a file (default: the Hub)"
    )
    parser.add_argument(
        "--without-t5", action="store_true", help="of sd3-medium and sd3.5-large: read the prompts with CLIP alone"
    )
    parser.add_argument("--size", type=int, help="edge of a picture in pixels (default: the model's)")


def choose_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the model is made of, by configuration key: the options given, else the configuration's defaults."""
    given = {
        "weights_from": arguments.weights_from,
        "use_t5": False if arguments.without_t5 else None,
        "height": arguments.size,
        "width": arguments.size,
    }
    described, keys = load_schema()["properties"], plan.MODEL_KEYS[arguments.model]
    return {key: described[key]["default"] if given[key] is None else given[key] for key in keys}
