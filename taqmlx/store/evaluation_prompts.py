"""Prompts and pictures of the evaluation: `<results>/evaluation/prompts.json`."""

from pathlib import Path
from typing import cast

from taqmlx.planning.evaluation_documents import EvaluationPrompts
from taqmlx.store.files import read_json


def read_evaluation_prompts(path: Path) -> EvaluationPrompts:
    """Read `path`. Raises UserError if it is missing, damaged or of another format."""
    return cast(EvaluationPrompts, read_json(path, format="evaluation-prompts"))
