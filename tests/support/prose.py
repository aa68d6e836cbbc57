"""The prose of the repository: documents, comments, docstrings, messages, descriptions and the names of tests."""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

TEXT = (".md", ".rst", ".yaml", ".smk", ".toml")
NAMES = ("Makefile", "Snakefile", "Dockerfile")
PIECES = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def list_files() -> list[Path]:
    """The tracked files with prose, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = map(Path, subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
    return [path for path in files if path.is_file() and (path.suffix in (".py", *TEXT) or path.name in NAMES)]


def read_prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of prose in a file, with their numbers; of Python no code but strings of several words."""
    text = path.read_text(encoding="utf-8")
    return read_python(text) if path.suffix == ".py" else iter(enumerate(text.splitlines(), 1))


def read_python(text: str) -> Iterator[tuple[int, str]]:
    """Comments, strings with a space in them, and names of tests as sentences."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type in PIECES and " " in token.string.strip()):
            yield from enumerate(token.string.split("\n"), token.start[0])
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*def test_(\w+)", line):
            yield number, found[1].replace("_", " ")
