"""The commands in documents, and the rules, settings and entries that they can name.

A command stands in an indented or ```sh block, or between backticks in the text or a table. Every one is run by
`test_docs_run.py`, except those on models whose real weights are needed: their section has to say
"needs the real weights".
"""

import re
import runpy
import shlex
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NamedTuple

import yaml
from snakemake.cli import get_argument_parser

from compat import translation
from compat.commands import COMMANDS
from taqmlx.planning import configuration
from taqmlx.runtime import entry

RULES = {name for path in Path("rules").glob("*.smk") for name in re.findall(r"^rule (\w+):", path.read_text(), re.M)}
SCHEMA = configuration.load_schema()
PARSER = get_argument_parser(profiles=[])
PROGRAMS = ("snakemake", "make", "python", "source", "rm", "hf", "mflux-generate", "rsync", "squeue", "scancel")
PAGES = sorted(Path("docs").glob("*.md"))
DOCUMENTS = [*map(Path, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md")), *PAGES]
MARKER = "needs the real weights"
REAL_MODELS = re.compile(r"sd3|(?<!m)flux|calibration-1000|\bhf auth|\bhf download")


class Command(NamedTuple):
    """A command line as words, without its comment, and the text of the section it stands in."""

    document: str
    words: list[str]
    section: str

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.words)

    @property
    def needs_weights(self) -> bool:
        """Whether it is on a model whose real weights are needed."""
        return bool(REAL_MODELS.search(self.line))

    @property
    def is_marked(self) -> bool:
        """Whether its section says so."""
        return MARKER in " ".join(self.section.replace("**", "").lower().split())


def read_commands(path: Path) -> list[Command]:
    """The commands of blocks, where a backslash at a line's end continues it, and those in the text."""
    commands = []
    for section in split_sections(path.read_text(encoding="utf-8")):
        lines = "\n".join(list_code(section)).replace("\\\n", " ").splitlines() + list_inline(section)
        words = [shlex.split(line, comments=True) for line in lines]
        commands += [Command(path.as_posix(), found, section) for found in words if found]
    return commands


def list_inline(section: str) -> list[str]:
    """The code between backticks that begins like a command."""
    text = re.sub(r"^```.*?^```", "", section, flags=re.M | re.S)
    return [" ".join(found.split()) for found in re.findall(r"`((?:snakemake|make|python|hf)\s[^`]+)`", text)]


def split_sections(text: str) -> list[str]:
    """The text cut before each heading."""
    return re.split(r"^(?=#+ )", text, flags=re.M)


def list_code(section: str) -> list[str]:
    """The lines of indented and of ```sh blocks."""
    found, fence, before = [], None, ""
    for line in section.splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.removeprefix("```")
        elif fence == "sh" or (fence is None and line.startswith("    ") and (not before or before.startswith("    "))):
            found.append(line.strip())
        before = line.strip() and line
    return found


def list_python(text: str) -> list[str]:
    """The code of ```python fences."""
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def list_hidden_commands(text: str) -> list[str]:
    """Lines of fences of other kinds that begin like a command."""
    fences = re.findall(r"^```(?!sh\n)\w*\n(.*?)^```", text, re.M | re.S)
    return [
        line for fence in fences for line in fence.splitlines() if line.startswith(("snakemake ", "make ", "python "))
    ]


def parse_snakemake(words: list[str]) -> Namespace:
    """A line of Snakemake, read by its own parser: `targets`, `configfile`, `config`."""
    return PARSER.parse_args(words[1:])


def find_results(found: Namespace) -> str:
    """The folder of results that a line of Snakemake writes to."""
    settings = dict(setting.split("=", 1) for setting in found.config or [])
    for path in map(Path, found.configfile or []):
        named = path.parent.as_posix() if path.name == "config.yaml" else f"results/{path.stem}"
        named = yaml.safe_load(path.read_text()).get("results_dir") if path.exists() else named
        settings.setdefault("results_dir", named)
    return settings.get("results_dir", "results")


def check_settings(found: Namespace) -> None:
    """Fail unless the configuration takes what a line of Snakemake sets."""
    settings = dict(setting.split("=", 1) for setting in found.config or [])
    files = [Path("config/config.yaml"), *(path for path in map(Path, found.configfile or []) if path.exists())]
    values = {key: value for file in files for key, value in yaml.safe_load(file.read_text()).items()}
    configuration.complete(values | {key: yaml.safe_load(value) for key, value in settings.items()}, SCHEMA)


def parse_entry(monkeypatch, words: list[str]) -> Namespace:
    """The arguments of a line `python -m workflow_scripts.FOLDER.NAME`, read by the entry's own parser; nothing is run.

    Or of an original command, `python -m src.NAME`.
    """
    if (name := words[2].removeprefix("src.")) in COMMANDS:
        return translation.parse(name, COMMANDS[name], words[3:])
    found = []

    def parse(main, parser: ArgumentParser) -> None:
        found.append(parser.parse_args(words[3:]))

    monkeypatch.setattr(entry, "run", parse)
    monkeypatch.delitem(sys.modules, words[2], raising=False)
    runpy.run_module(words[2], run_name="__main__")
    return found[0]
