"""JSON Schema validation, with the most relevant error in one line."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from taqmlx.planning.documents import Schema
from taqmlx.store.errors import UserError, report_damage

MOST_ERRORS = 100  # number of errors from which the most relevant is chosen
LONGEST_MESSAGE = 200  # characters


def load_schema(name: str) -> Schema:
    """Load a schema from the folder of this module."""
    schema: Schema = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return schema


def check_schema(content: Any, schema: Schema, path: Path) -> None:
    """Raise UserError, naming the place in the file `path`, unless its `content` fits `schema`."""
    with report_damage(path):
        error = best_match(islice(Draft202012Validator(schema).iter_errors(content), MOST_ERRORS))
    if error:
        place = ".".join(map(str, error.absolute_path))[:LONGEST_MESSAGE] or "the file"
        raise UserError(f"{path}: {place}: {error.message[:LONGEST_MESSAGE]}")
