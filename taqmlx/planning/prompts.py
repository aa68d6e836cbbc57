"""Prompt files. Standard library only, since planning reads them too."""

import re
from pathlib import Path

from taqmlx.planning.path_checks import find_obstacle
from taqmlx.planning.plain_files import read_plain
from taqmlx.planning.prompt_formats import READERS, find_format

LARGEST_FILE = 1 << 26  # bytes; about a million long prompts
LONGEST_PROMPT = 10_000  # characters
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Suffixes of formats that are not one prompt per line.
FOREIGN = {".yaml", ".yml", ".md", ".rst", ".html", ".xml", ".xlsx", ".xls", ".ods", ".parquet", ".arrow"}
READABLE = "one prompt per line (.txt), a table (.csv, .tsv) or JSON (.json, .jsonl)"


def read_prompts(path: Path) -> list[str]:
    """The prompts of a UTF-8 file, in the format given by its suffix; blank prompts are skipped, duplicates kept.

    `.csv`, `.tsv` and `.tab` are tables with a prompt column; `.json`, `.jsonl` and `.ndjson` hold strings, or objects
    with a prompt key, named as in `prompt_formats.NAMES`; any other file has one prompt per line. Raises ValueError, in
    one line, if the file is missing, too large, not UTF-8, empty or ambiguous, or if a prompt has control characters or
    is too long.
    """
    suffix = path.suffix.lower()
    if suffix in FOREIGN:
        raise ValueError(f"prompts: {path} has an unsupported format; save it as {READABLE}")
    try:
        text = read_plain(path, LARGEST_FILE).decode("utf-8-sig")
    except OSError as error:
        reason = find_obstacle(path) or error.strerror
        raise ValueError(f"prompts: cannot read {path} ({reason}); name a file with {READABLE}") from None
    except UnicodeDecodeError:
        raise ValueError(f"prompts: {path} is not UTF-8; save it as UTF-8") from None
    except ValueError as error:
        raise ValueError(f"prompts: {path} is not a file of prompts: {error}") from None
    prompts = split_prompts(text, suffix, path)
    if not prompts:
        raise ValueError(f"prompts: {path} has no prompt; write one per line")
    for prompt in prompts:
        reject_unreadable(prompt, path)
    return prompts


def split_prompts(text: str, suffix: str, path: Path) -> list[str]:
    """The non-blank prompts in `text`. Raises ValueError, in one line."""
    if suffix not in READERS and (better := find_format(text)):
        raise ValueError(
            f"prompts: {path} has the name of a text file and the content of {better}; rename it to"
            f" {path.with_suffix(better).name}, or remove line 1 if it is not a prompt"
        )
    try:
        lines = READERS[suffix](text) if suffix in READERS else text.split("\n")
    except ValueError as error:
        raise ValueError(f"prompts: {path}: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def reject_unreadable(prompt: str, path: Path) -> None:
    """Raise ValueError for a prompt that is too long or has control characters other than tabs."""
    if CONTROL.search(prompt):
        raise ValueError(f"prompts: {path} has control characters in {prompt[:40]!r}; save it as plain text in UTF-8")
    if len(prompt) > LONGEST_PROMPT:
        raise ValueError(f"prompts: {path}: {prompt[:40]!r}... has more than {LONGEST_PROMPT} characters; shorten it")
