"""Where files of the user's are on this machine: weights, prompts, real pictures. Standard library only.

Workers get it from environment variables and not with their parameters, so that no result has a path in it: results
can be moved, and so can these files. What the files hold is in the seals, as digests.
"""

import os
from typing import Any

from taqmlx.planning.plan import MODEL_KEYS, PLACES, WEIGHTS_FROM, Parameters


def list_places(config: Parameters) -> dict[str, str]:
    """The environment variables that tell workers where the files of the configuration are."""
    keys = [key for key in PLACES if config[key] and (key != WEIGHTS_FROM or MODEL_KEYS[config["model"]])]
    paths = {key: config[key]["path"] if isinstance(config[key], dict) else config[key] for key in keys}
    return {name_variable(key): path for key, path in paths.items()}


def name_variable(key: str) -> str:
    """The environment variable of a key of `PLACES`, such as WORKFLOW_WEIGHTS_FROM."""
    return f"WORKFLOW_{key.upper()}"


def find_place(key: str, named: Any = None) -> Any:
    """Where the files of `key` are for this process: what the environment says, else `named`, the parameter.

    A parameter with a `path` keeps its other values.
    """
    place = os.environ.get(name_variable(key))
    if place is None:
        return named
    return named | {"path": place} if isinstance(named, dict) else place
