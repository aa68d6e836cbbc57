"""The prompts of a file. Standard library only, as planning a run reads them too."""

import csv
import io
import re
from pathlib import Path

from workflow_scripts.plain_files import read_plain

LARGEST_FILE = 1 << 26  # bytes, a million long prompts
LONGEST_PROMPT = 10_000  # characters
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
COLUMNS = ("prompt", "caption")  # of a CSV file, the first that is there


def read_prompts(path: Path) -> list[str]:
    """The prompts of a UTF-8 text file, one a line, or of a `.csv` file, one a row; blank ones skipped, repeated kept.

    Raises ValueError, in one line, if the file is missing, too large, not UTF-8 or empty, a CSV file without a prompt
    column, or if a prompt has control characters or is too long to be one.
    """
    try:
        text = read_plain(path, LARGEST_FILE).decode("utf-8-sig")
    except OSError:
        raise ValueError(f"prompts: cannot read {path}; name a text file with one prompt a line") from None
    except UnicodeDecodeError:
        raise ValueError(f"prompts: {path} is not UTF-8; save it as UTF-8") from None
    except ValueError as error:
        raise ValueError(f"prompts: {path} is no file of prompts: {error}") from None
    lines = read_column(text, path) if path.suffix.lower() == ".csv" else text.split("\n")
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"prompts: {path} has no prompt; write one a line")
    for prompt in prompts:
        refuse_unreadable(prompt, path)
    return prompts


def refuse_unreadable(prompt: str, path: Path) -> None:
    """Raise ValueError for a prompt with control characters other than tabs, or that is too long."""
    if CONTROL.search(prompt):
        raise ValueError(f"prompts: {path} has control characters in {prompt[:40]!r}; save it as plain text in UTF-8")
    if len(prompt) > LONGEST_PROMPT:
        raise ValueError(f"prompts: {path}: {prompt[:40]!r}... has more than {LONGEST_PROMPT} characters; shorten it")


def read_column(text: str, path: Path) -> list[str]:
    """The column of a CSV file that its first row calls `prompt` or `caption`; a prompt is one line of text.

    Raises ValueError, in one line, if there is no such column.
    """
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""))
        names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        table = list(rows)
    except csv.Error as error:
        raise ValueError(f"prompts: {path} is no readable CSV file ({error}); save it again as CSV in UTF-8") from None
    column = next((names[name] for name in COLUMNS if name in names), None)
    if column is None:
        raise ValueError(f"prompts: {path} has no column prompt or caption; name one so in its first row")
    return [" ".join((row[column] or "").split()) for row in table]
