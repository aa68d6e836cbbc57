"""Limits that hold for any configuration: size and nesting of its values, and safe paths."""

import datetime
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

from taqmlx.planning.documents import Config
from taqmlx.planning.plain_files import LARGEST_NUMBER

MOST_VALUES = 50_000  # values per configuration; a YAML alias counts each time it is used
DEEPEST = 20  # levels
LONGEST_TEXT = 10_000  # characters
LONGEST_COMMAND = 100_000  # bytes of values on a worker's command line; the limit on Linux is 128 KiB
PATHS = ("results_dir", "prompts", "evaluation_prompts", "reference_pictures")  # used in rule paths
# Snakemake parses wildcards and path variables in these characters; a shell line cannot hold a line break.
UNFIT = re.compile(r"[\x00-\x1f\x7f{}<>]")
ROOT = Path(__file__).parents[2]
# Project folders that cannot hold results.
SOURCES = {
    *(".git", ".github", ".snakemake", ".venv", "config", "docs"),
    *("profiles", "report", "rules", "tests", "tools", "workflow"),
}
SOURCES |= {"taqmlx", "workflow_scripts", "compat", "src"}


def reject_unwieldy(config: Any) -> None:
    """Raise ValueError unless `config` is a dictionary of plain values within the limits on count, size and nesting."""
    if not isinstance(config, dict):
        raise ValueError("the configuration is not a list of keys and values; write one key: value per line")
    level, count = [("", config)], 0
    for _ in range(DEEPEST):
        found = []
        for key, value in level:
            inner = list(value.items()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
            count += len(inner)
            if count > MOST_VALUES:
                raise ValueError(f"{key}: more than {MOST_VALUES} values in all; a configuration has a few hundred")
            reject_value(key, value)
            for item in inner:
                name, content = item if isinstance(value, dict) else (key, item)
                if not isinstance(name, str):
                    raise ValueError(f"{str(name)[:40]}: unknown key; keys must be text; put it in quotes")
                found.append((key or name[:40], content))
        level = found
        if not level:
            return
    raise ValueError(f"{level[0][0]}: nested more than {DEEPEST} levels deep; no key takes that")


def reject_value(key: str, value: Any) -> None:
    """Raise ValueError unless `value` is text, a number, a boolean, null, a list or a dictionary, within the size
    limits.
    """
    if isinstance(value, datetime.date):
        raise ValueError(f"{key}: {value} is a date in YAML; put it in quotes")
    if not isinstance(value, str | int | float | list | dict | None):
        raise ValueError(f"{key}: a value of the type {type(value).__name__}; write text, a number, true or false")
    if isinstance(value, int) and not -LARGEST_NUMBER <= value < LARGEST_NUMBER:
        raise ValueError(f"{key}: a number of more than 64 bits; write a smaller one")
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise ValueError(f"{key}: a text of {len(value)} characters; at most {LONGEST_TEXT} are allowed")
    if isinstance(value, str) and ("\0" in value or not is_encodable(value)):
        raise ValueError(f"{key}: a text with characters that a command line cannot hold; remove them")


def is_encodable(text: str) -> bool:
    """True if `text` can be encoded as UTF-8, i.e. has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def reject_paths(config: Config) -> None:
    """Raise ValueError for a path that Snakemake or a shell would misread, or a results folder inside or above the
    project.
    """
    for key in PATHS:
        path = config[key]
        if path is not None and (UNFIT.search(path) or path.startswith(("-", "~"))):
            raise ValueError(
                f"{key}: {path[:80]!r} has control characters or one of {{}}<>, or begins with - or ~;"
                " choose another name"
            )
    results = config["results_dir"]
    if ".." in Path(results).parts:
        raise ValueError(f"results_dir: {results[:80]} contains ..; give an absolute path")
    place = Path(os.path.normpath(Path.cwd() / results))
    if Path.cwd().is_relative_to(place) or ROOT.is_relative_to(place):
        raise ValueError(f"results_dir: {results[:80]} contains the project itself; choose a folder of its own")
    if any(place.is_relative_to(root) and place.relative_to(root).parts[0] in SOURCES for root in list_projects()):
        raise ValueError(f"results_dir: {results[:80]} is among the project's own files; choose a folder of its own")


def list_projects() -> list[Path]:
    """Folders that hold the workflow: the clone, and the current folder where a project was created or deployed."""
    here = Path.cwd()
    is_project = any((here / name).is_file() for name in ("Snakefile", "workflow/Snakefile"))
    return [ROOT, here] if is_project else [ROOT]


def reject_long(config: Config) -> None:
    """Raise ValueError if the values do not fit on a worker's command line."""
    size = len(shlex.quote(json.dumps(config, ensure_ascii=False)).encode())
    if size > LONGEST_COMMAND:
        raise ValueError(
            f"the configuration has {size} bytes, and at most {LONGEST_COMMAND} fit; use fewer, wider rules"
        )
