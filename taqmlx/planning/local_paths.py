"""Local paths of the user's files: weights, prompts, real images. Standard library only.

Workers get them from environment variables rather than parameters, so that no result contains a path: results and files
can both be moved. The seals hold digests of the file contents.
"""

import os
from typing import Any

from taqmlx.planning.plan import LOCAL_PATHS, MODEL_KEYS, WEIGHTS_FROM, Parameters


def list_local_paths(config: Parameters) -> dict[str, str]:
    """Environment variables that pass the configured local paths to workers."""
    keys = [key for key in LOCAL_PATHS if config[key] and (key != WEIGHTS_FROM or key in MODEL_KEYS[config["model"]])]
    paths = {key: config[key]["path"] if isinstance(config[key], dict) else config[key] for key in keys}
    return {name_variable(key): path for key, path in paths.items()}


def name_variable(key: str) -> str:
    """Environment variable of a key of `LOCAL_PATHS`, such as WORKFLOW_WEIGHTS_FROM."""
    return f"WORKFLOW_{key.upper()}"


def find_local_path(key: str, named: Any = None) -> Any:
    """Local path of `key` in this process: from the environment, else `named`, the parameter.

    A parameter with a `path` keeps its other values.
    """
    place = os.environ.get(name_variable(key))
    if place is None:
        return named
    return named | {"path": place} if isinstance(named, dict) else place
